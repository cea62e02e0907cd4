"""What all models share that are saved, loaded and published: the mixin, and the model card.

A card says what a folder of weights is, what it learned from, how, and how well it does. `save_pretrained` and
`push_to_hub` of every model keep a README.md that is there already, so a card written first is the one published.
"""

from __future__ import annotations

import contextlib
import copy
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from huggingface_hub import PyTorchModelHubMixin
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch.overrides import TorchFunctionMode

from asr import eight_bits
from asr.audio.io import atomic_path
from asr.console.program import reason


class HubModel(PyTorchModelHubMixin):
    """`save_pretrained` and `from_pretrained` for a module, with standard output left to results."""

    @classmethod
    def from_pretrained(cls, name: str | Path, **kwargs) -> Self:
        """Load from a folder or a Hub id.

        Raises:
            OSError: there is no such model.
            ValueError: there is one, but of another kind, or it is damaged.
        """
        try:
            with contextlib.redirect_stdout(io.StringIO()), Unfilled():  # huggingface_hub prints where results belong
                return super().from_pretrained(str(name), **kwargs)
        except (OSError, HFValidationError) as error:
            where = "" if Path(name).is_dir() else "neither a folder nor a model on the Hub: "
            raise OSError(f"{name}: {where}{reason(error)}") from error
        except (TypeError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{name}: holds no {cls.__name__} of ours, or a damaged one ({reason(error)})") from error

    def save_half(self, folder: str | Path) -> None:
        """`save_pretrained` with the floating-point weights in half precision; loading restores float32.

        From a GPU by way of the CPU: cuDNN lets all weights of a GRU share one piece of memory, which safetensors
        refuses to write.
        """
        copy.deepcopy(self).cpu().half().save_pretrained(folder)

    def save_eight_bits(self, folder: str | Path) -> None:
        """`save_pretrained` with the matrices in 8 bits (`asr.eight_bits`); loading restores float32."""
        self.save_half(folder)
        with atomic_path(Path(folder) / "model.safetensors") as partial:
            eight_bits.save(self.state_dict(), partial)

    @classmethod
    def _load_as_safetensor(cls, model: Self, model_file: str, map_location: str, strict: bool) -> Self:
        if not eight_bits.is_stored(model_file):
            return super()._load_as_safetensor(model, model_file, map_location, True)
        own, filled = model.state_dict(), set()
        for name, value in eight_bits.load(model_file, map_location):  # one at a time: memory for all of them twice
            own[name].copy_(value)
            filled.add(own[name].data_ptr())
        if left := [name for name, value in own.items() if value.data_ptr() not in filled]:
            raise ValueError(f"the weights lack {', '.join(left[:3])}")
        return model.eval()


class Unfilled(TorchFunctionMode):
    """Inside it modules are made without start values, which weights from a file replace: half a second saved."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **(kwargs or {}))


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


def model_file(name: str | Path, file: str) -> Path | None:
    """A file of a model in a local folder or on the Hub, None where the model has none of that name.

    Raises:
        OSError: there is no such model.
    """
    path = Path(name)
    if path.is_dir():
        return path / file if (path / file).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(str(name), file))
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise OSError(f"{name}: neither a folder nor a model on the Hub ({reason})") from error
