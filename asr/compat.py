"""What differs between the versions of the libraries underneath.

check_torchaudio: one clear error where torch and torchaudio do not fit each other. pip reports no conflict between
a torch and a torchaudio built for different CUDA lines; the import fails, deep inside. transformers imports torchaudio
wherever it is installed, so that every model would fail with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

REMEDY = 'pip install "torch>=2.11,<2.15" "torchaudio>=2.11,<2.12", both from one package index'


def check_torchaudio() -> None:
    """Import torchaudio, or say how to mend the installation.

    Raises:
        ImportError: torchaudio is missing or was built for another torch; the message names the fix.
    """
    try:
        import torchaudio.functional  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()
        raise ImportError(
            f"torch {_version('torch')} and torchaudio {_version('torchaudio')} do not fit each other "
            f"({reason[0] if reason else type(error).__name__}). To mend it: {REMEDY}"
        ) from error


def cache_name(forward: Callable) -> str:
    """The name of the argument that hands keys and values to a model of transformers, given its `forward`.

    It was `past_key_values` and is being renamed to `cache`; models loaded with code of their own keep the old name.
    """
    names = inspect.signature(forward).parameters.keys()
    if not names & {"cache", "past_key_values"}:  # a bidirectional model passes it on to its layers
        from transformers import LlamaModel

        names = inspect.signature(LlamaModel.forward).parameters.keys()
    return "cache" if "cache" in names else "past_key_values"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
