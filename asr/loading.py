"""The one loader that knows every kind of recogniser."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from asr.hub import model_file
from asr.recogniser import CompactRecogniser, CTCRecogniser, HFRecogniser


def load_recogniser(name: str | Path | None = None, device: str = "auto") -> CTCRecogniser:
    """The recogniser behind a name: None is the compact model, otherwise a folder or a Hub id.

    Raises:
        OSError: there is no such model.
        ValueError: there is, but it is no CTC model.
    """
    device = default_device() if device == "auto" else device
    config = _config(name) if name is not None else {}
    if "language_model" in config.get("settings", {}):
        from asr.pretrained.recogniser import LargeRecogniser  # late, since transformers takes its time

        return LargeRecogniser(name, device)
    if "branch" in config:
        from asr.hybrid.recogniser import HybridRecogniser

        return HybridRecogniser(name, device)
    if "model_type" not in config:
        return CompactRecogniser(name, device)
    kinds = config.get("architectures") or []
    if not any(kind.endswith("ForCTC") for kind in kinds):
        kind = ", ".join(kinds) or "of no known architecture"
        raise ValueError(f"{name}: is {kind}; choose a model with a CTC head (...ForCTC)")
    return HFRecogniser(name, device)


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
