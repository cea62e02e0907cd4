"""The one loader that knows every kind of recogniser."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch

from asr.compact import compact_recogniser
from asr.hub import model_file
from asr.memory import give_back
from asr.recogniser import Recogniser

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = {"tiny": "hybrid_tiny"}  # what `--model` may be, beside folders and Hub ids
DEFAULT = "tiny"
# What faster-whisper downloads by its size.
SIZES = ("tiny.en", "base.en", "small", "small.en", "medium", "medium.en", "large-v1", "large-v2", "large-v3", "large",
         "turbo", "large-v3-turbo", "distil-small.en", "distil-medium.en", "distil-large-v2", "distil-large-v3")


def load_recogniser(
    name: str | Path | None = None, device: str = "auto", compute_type: str = "auto"
) -> Recogniser:
    """The recogniser behind a name.

    Args:
        name: None is the default one of `SHIPPED`; otherwise one of these names, a folder or a Hub id.
        device: "auto", "cpu", "cuda" ...
        compute_type: number format of a hybrid recogniser (`asr.hybrid.precision`); the others compute in float32.

    Raises:
        OSError: there is no such model.
        ValueError: there is, but it is no recogniser, or it has no such compute type.
    """
    device = default_device() if device == "auto" else device
    recogniser = _load(shipped(name), device, compute_type)
    give_back()  # weights in the format of the file
    recogniser.loaded_by = partial(load_recogniser, name, device, recogniser.compute_type or compute_type)
    return recogniser


def _load(name: str | Path, device: str, compute_type: str) -> Recogniser:
    if _is_converted(name):
        from asr.pretrained.sequences import FasterWhisperRecogniser

        return FasterWhisperRecogniser(name, device)
    config = _config(name)
    if "branch" in config:
        from asr.hybrid.recogniser import hybrid_recogniser

        return hybrid_recogniser(name, device, compute_type)
    if compute_type not in ("auto", "float32"):
        raise ValueError(f"{name}: compute_type {compute_type} is for hybrid models; this one computes in float32")
    if "language_model" in config.get("settings", {}):
        from asr.pretrained.recogniser import large_recogniser  # late, since transformers takes its time

        return large_recogniser(name, device)
    if "encoder" in config and "tokenizer" in config:
        return compact_recogniser(name, device)
    kinds = config.get("architectures") or []
    if any(kind.endswith("ForCTC") for kind in kinds):
        from asr.pretrained.ctc import ctc_recogniser

        return ctc_recogniser(name, device)
    if any(kind.endswith(("ForConditionalGeneration", "ForSpeechSeq2Seq")) for kind in kinds):
        from asr.pretrained.sequences import SequenceRecogniser

        return SequenceRecogniser(name, device)
    if any(kind.endswith(("ForRNNT", "ForTDT")) for kind in kinds):
        from asr.pretrained.transducers import TransducerRecogniser

        return TransducerRecogniser(name, device)
    kind = ", ".join(kinds) or "no recogniser that is known here"
    raise ValueError(f"{name}: is {kind}; choose one with a CTC head (...ForCTC), a transducer, or one like Whisper")


def _is_converted(name: str | Path) -> bool:
    """Whether this is a Whisper in CTranslate2's format: a folder of one, or a size that faster-whisper knows."""
    if Path(name).is_dir():
        return (Path(name) / "model.bin").is_file() and not (Path(name) / "pytorch_model.bin").exists()
    return str(name) in SIZES or "faster-whisper" in str(name) or "faster-distil-whisper" in str(name)


def shipped(name: str | Path | None) -> str | Path:
    """The folder of a shipped model's name (None: of the default); other names as they are."""
    if name is None:  # whatever folders lie about where the program runs
        return WEIGHTS / SHIPPED[DEFAULT]
    return WEIGHTS / SHIPPED[name] if name in SHIPPED and not Path(name).exists() else name


def default_device() -> str:
    """The best device of this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _config(name: str | Path) -> dict:
    file = model_file(name, "config.json")
    if file is None:
        raise OSError(f"{name}: no model here, config.json is missing")
    return json.loads(file.read_text(encoding="utf-8"))
