"""Speech recognition; names load when first used, so that the import stays light."""

from importlib import import_module

_HOMES = {
    "AudioError": "audio.errors",
    "CTCModel": "ctc.model",
    "Segment": "output.transcript",
    "Tokenizer": "text.tokenizer",
    "Transcriber": "transcriber",
    "Transcript": "output.transcript",
    "Word": "output.transcript",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
