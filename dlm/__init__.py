"""The Denoising LM: text-to-speech, hypotheses of our own recogniser, and the model that corrects them.

Names load when first used, so that `python -m dlm.correct --help` does not wait for torch.
"""

from importlib import import_module

_HOMES = {
    "Correction": "corrector",
    "CorrectionOptions": "corrector",
    "Corrector": "corrector",
    "DenoisingLM": "model",
    "DenoisingLMConfig": "model",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
