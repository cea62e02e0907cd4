"""Model cards: what a folder of weights is, what it learned from, how, and how well it does.

`save_pretrained` and `push_to_hub` of every model keep a README.md that is there already, so a card written first is
the one that is published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from asr.audio.io import atomic_path


@dataclass
class ModelCard:
    """The contents of a card.

    Args:
        name: of the model.
        summary: one or two sentences: what goes in, what comes out, how large it is.
        data: what it was trained on, with licences.
        recipe: the command that trained it.
        results: measured values by name, with how they were measured in `measured_on`.
        limits: what it cannot do and was not tested on.
        license: identifier the Hub knows, such as "cc-by-4.0".
        language: codes such as "en".
        tags: of the Hub.
        base_models: Hub ids of pretrained parts.
    """

    name: str
    summary: str
    data: str
    recipe: str
    results: dict[str, float] = field(default_factory=dict)
    measured_on: str = ""
    limits: str = ""
    license: str = "cc-by-4.0"
    language: str = "en"
    tags: tuple[str, ...] = ("automatic-speech-recognition",)
    base_models: tuple[str, ...] = ()

    def text(self) -> str:
        """The card as Markdown with the Hub's header."""
        header = ["---", f"language: {self.language}", f"license: {self.license}", f"tags: [{', '.join(self.tags)}]"]
        if self.base_models:
            header += ["base_model:", *(f"- {name}" for name in self.base_models)]
        parts = [f"# {self.name}", self.summary, f"**Data.** {self.data}", f"**Recipe.** `{self.recipe}`"]
        if self.results:
            rows = [f"| {name} | {value:.4g} |" for name, value in self.results.items()]
            on = f" on {self.measured_on}" if self.measured_on else ""
            parts.append("\n".join([f"**Results**{on}:", "", "| measure | value |", "|---|---|", *rows]))
        if self.limits:
            parts.append(f"**Limits.** {self.limits}")
        return "\n".join([*header, "---", "\n\n".join(parts)]) + "\n"

    def write(self, folder: str | Path) -> Path:
        """Write README.md of a model folder; returns its path."""
        path = Path(folder) / "README.md"
        with atomic_path(path) as partial:
            partial.write_text(self.text(), encoding="utf-8")
        return path
