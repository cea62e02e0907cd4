"""Memory of finished work goes back to the system.

Batches of speech have all lengths, so what one leaves free seldom fits the next: the C library keeps it all the same,
and a long recording seems to need more and more.
"""

from __future__ import annotations

import ctypes
from functools import cache


def give_back() -> None:
    """Return to the system what is free; where the C library cannot (it is glibc that can), nothing happens."""
    if trim := _trim():
        trim(0)


@cache
def _trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
