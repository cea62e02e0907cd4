"""PyAV (FFmpeg's libraries) as every version of it wants to be called."""

from __future__ import annotations

from typing import BinaryIO

import av

# From 19 on PyAV replaces what is no UTF-8 in tags by itself, before it raised an error unless told to.
TAGS = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_container(file: BinaryIO, **options) -> av.container.InputContainer:
    """`av.open` for reading, whatever the recording's tags are written in."""
    return av.open(file, **TAGS, **options)
