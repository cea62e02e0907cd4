"""The one loader that knows every kind of recogniser."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from asr.compact import compact_recogniser
from asr.hub import model_file
from asr.hybrid.recogniser import HybridRecogniser
from asr.recogniser import SpeechRecogniser

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = {"compact": "ctc_compact"}  # what `--model` may be, beside folders and Hub ids
DEFAULT = "compact"


def load_recogniser(
    name: str | Path | None = None, device: str = "auto", compute_type: str = "auto"
) -> SpeechRecogniser | HybridRecogniser:
    """The recogniser behind a name.

    Args:
        name: None is the default one of `SHIPPED`; otherwise one of these names, a folder or a Hub id.
        device: "auto", "cpu", "cuda" ...
        compute_type: number format of a hybrid recogniser (`asr.hybrid.precision`); the others compute in float32.

    Raises:
        OSError: there is no such model.
        ValueError: there is, but it is no CTC model, or it has no such compute type.
    """
    device = default_device() if device == "auto" else device
    name = shipped(name)
    config = _config(name)
    if "branch" in config:
        return HybridRecogniser(name, device, compute_type)
    if compute_type not in ("auto", "float32"):
        raise ValueError(f"{name}: compute_type {compute_type} is for hybrid models; this one computes in float32")
    if "language_model" in config.get("settings", {}):
        from asr.pretrained.recogniser import large_recogniser  # late, since transformers takes its time

        return large_recogniser(name, device)
    if "model_type" not in config:
        return compact_recogniser(name, device)
    kinds = config.get("architectures") or []
    if not any(kind.endswith("ForCTC") for kind in kinds):
        kind = ", ".join(kinds) or "of no known architecture"
        raise ValueError(f"{name}: is {kind}; choose a model with a CTC head (...ForCTC)")
    from asr.pretrained.ctc import ctc_recogniser

    return ctc_recogniser(name, device)


def shipped(name: str | Path | None) -> str | Path:
    """The folder of a shipped model's name (None: of the default); other names as they are."""
    name = name or DEFAULT
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
