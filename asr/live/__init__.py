"""Live text from a stream: `LiveTranscriber`; the program is `python -m asr.live`."""

from importlib import import_module

__all__ = ["LiveEvent", "LiveState", "LiveTranscriber"]


def __getattr__(name: str):
    if name in __all__:
        return getattr(import_module("asr.live.stream"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
