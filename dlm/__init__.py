"""Correction of recognised text: the Denoising LM and its training pairs, and the model that restores writing.

Names load when first used, so that `python -m dlm.correct --help` does not wait for torch.
"""

from importlib import import_module

_HOMES = {
    "Correction": "corrector",
    "CorrectionOptions": "corrector",
    "Corrector": "corrector",
    "DenoisingLM": "model",
    "DenoisingLMConfig": "model",
    "Restorer": "restorer",
    "RestorerOptions": "restorer",
    "WritingModel": "writing",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
