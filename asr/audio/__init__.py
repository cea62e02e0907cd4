"""The audio front end shared by every system; names load when first used, so that the import stays light."""

from importlib import import_module

_HOMES = {
    "AudioError": "errors",
    "Report": "report",
    "SAMPLING_RATE": "io",
    "from_array": "io",
    "load": "io",
    "resample": "io",
    "save": "io",
    "stream": "io",
    "Segmenter": "segment",
    "SpeechSegment": "segment",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
