"""Which corrector a name stands for, and several of them one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from asr.hub import model_file
from dlm.corrector import Correction, Corrector, Hypotheses
from dlm.restorer import Restorer

SHIPPED = ("writing",)  # names of models that come with the package


class Chain:
    """Correctors that each read what the one before wrote: words first, then their writing."""

    def __init__(self, parts: Sequence[Corrector | Restorer]):
        self.parts = list(parts)

    def __call__(self, hypotheses: Hypotheses, score_texts=None) -> str:
        audio = {"score_texts": score_texts} if score_texts else {}
        text = self.parts[0](hypotheses, **audio)
        for part in self.parts[1:]:
            text = part(text)
        return text

    def correct(self, lines: Sequence[str], batch_size: int = 32) -> list[Correction]:
        return self._in_turn("correct", lines, batch_size)

    def running(self, parts: Sequence[str], batch_size: int = 32, sure=None) -> list[Correction]:
        return self._in_turn("running", parts, batch_size, sure)

    def _in_turn(self, method: str, lines: Sequence[str], *options) -> list[Correction]:
        results = getattr(self.parts[0], method)(lines, *options)
        for part in self.parts[1:]:
            further = getattr(part, method)([result.text for result in results], options[0])
            results = [
                Correction(a.hypothesis, b.text, a.gain + b.gain) for a, b in zip(results, further, strict=True)
            ]
        return results


def load_correctors(names: Sequence[str], device: str = "cpu", margin: float | None = None) -> list:
    """The correctors of names, those that correct words before those that restore writing.

    Args:
        names: "writing", which ships, or folders and Hub ids of correction or writing models.
        device: "cpu", "cuda" ...
        margin: of models that correct words (`dlm.corrector.CorrectionOptions`).

    Raises:
        OSError: there is no such model.
        ValueError: it is of another kind.
    """
    found = [_load(name, device, margin) for name in dict.fromkeys(names)]
    return sorted(found, key=lambda corrector: isinstance(corrector, Restorer))


def by_kind(names: Sequence[str], device: str = "cpu") -> tuple[Chain | None, Restorer | None]:
    """The correctors of words, and the one of writing; see `load_correctors`.

    Raises:
        ValueError: several restore writing.
    """
    found = load_correctors(names, device)
    words = [corrector for corrector in found if not isinstance(corrector, Restorer)]
    if len(found) - len(words) > 1:
        raise ValueError(f"of {', '.join(names)} several restore writing: name one of them")
    return Chain(words) if words else None, found[-1] if len(found) > len(words) else None


def _load(name: str, device: str, margin: float | None) -> Corrector | Restorer:
    if name in SHIPPED and not Path(name).is_dir():
        return Restorer.from_pretrained(None, device)
    config = model_file(name, "config.json")
    fields = json.loads(config.read_text(encoding="utf-8")) if config else {}
    if isinstance(fields, dict) and "pieces" in fields:
        return Restorer.from_pretrained(name, device)
    return Corrector.from_pretrained(name, device, **({} if margin is None else {"margin": margin}))
