"""AVI out of which bytes are gone: zeros in their stead keep all others in their places (as asr/audio/mp4.py).

The index (idx1) behind the samples tells the place of each chunk, and is itself found by the length of what is before.
https://learn.microsoft.com/windows/win32/directshow/avi-riff-file-reference
"""

from __future__ import annotations

from asr.audio.views import Spliced, View

SLACK = 512  # bytes by which writers miscount
HEAD = 1 << 16  # bytes with the headers of all streams
ENTRY = 16  # bytes: name of the chunk, flags, place and length


def mended(view: View) -> View:
    """The view; with zeros in a hole between chunks, if the index is there. `share` says what is missing else."""
    promised = 8 + _number(view, 4)
    missing = promised - view.size
    if missing <= SLACK:
        return view
    movi, length = _movi(view)
    index = movi + 8 + length - missing
    hole = _hole(view, movi + 8, index) if movi and view.at(index, 4) == b"idx1" else None
    if hole is None:
        view.share = (view.size + SLACK) / promised
        return view
    whole = Spliced(view, [(0, hole), (None, missing), (hole, view.size - hole)])
    whole.is_mended = True
    return whole


def sample_size(view: View, stream: int) -> int:
    """The unit of the times in the index of a stream, in bytes; 1 where they count chunks or bytes."""
    head, at = view.at(0, HEAD), -1
    for _ in range(stream + 1):
        if (at := head.find(b"strh", at + 1)) < 0:
            return 1
    return int.from_bytes(head[at + 52 : at + 56], "little") or 1


def _movi(view: View) -> tuple[int, int]:
    """Place and length of the list of chunks; 0 where there is none."""
    at = 12
    while at + 12 <= view.size:
        length = _number(view, at + 4)
        if view.at(at, 4) == b"LIST" and view.at(at + 8, 4) == b"movi":
            return at, length
        at += 8 + length + length % 2
    return 0, 0


def _hole(view: View, base: int, index: int) -> int | None:
    """The first place at which the index names a chunk that is not there."""
    entries = view.at(index + 8, _number(view, index + 4))
    place = int.from_bytes(entries[8:12], "little")
    start = base if view.at(base + place, 4) == entries[:4] else 0  # of the places: the list or the file
    for at in range(0, len(entries) - ENTRY + 1, ENTRY):
        place = start + int.from_bytes(entries[at + 8 : at + 12], "little")
        if view.at(place, 4) != entries[at : at + 4]:
            return place
    return None


def _number(view: View, at: int) -> int:
    return int.from_bytes(view.at(at, 4), "little")
