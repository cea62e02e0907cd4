"""MP4 and its kin (ISO 14496-12) out of which bytes are gone: zeros in their stead keep all others in their places.

The index (moov) tells places of samples in the file. With a hole before it, FFmpeg does not find it; with a hole behind
it, every sample after the hole is read from the wrong place.
"""

from __future__ import annotations

from itertools import islice

import av

from asr.audio.pyav import open_container
from asr.audio.views import Spliced, View

ATOMS = frozenset(b"ftyp styp moov moof mdat mfra sidx ssix free skip wide udta uuid meta pdin emsg prft".split())
WINDOW = 1 << 20  # bytes searched at once
LONGEST_HOLE = 1 << 31  # bytes; a longer one is a damaged length
REFUSED = 3  # packets of the next RUN that a decoder refuses where it reads from the wrong place
RUN = 5


def mended(view: View) -> View:
    """The view; where bytes of its samples are gone and the place can be found, with zeros in their stead.

    Damaged atoms become padding. `share` and the marks of the view say what is known of it.
    """
    at = 0
    while at < view.size and (length := _atom(view, at)) is not None:
        end, name = at + length, view.at(at + 4, 4)
        view.is_fragmented |= name == b"moof"
        if name == b"mfra" and view.is_mended:  # places of fragments that have moved
            view.patches[at + 4] = b"free"
        if end < view.size and _atom(view, end) is not None or end == view.size:
            at = end
            continue
        following = _next(view, at + 8 if name == b"mdat" else end)
        if moved := _moved(view, following):
            view = _spliced(view, min(end, following), moved)
        elif name == b"mdat" and 0 < end - following <= LONGEST_HOLE:
            filled = _filled(view, at, following, end - following)
            if filled is None:
                return view
            view, at = filled, end
        elif end + 8 <= following < 1 << 32:
            view.patches[end] = (following - end).to_bytes(4, "big") + b"free"
            view.is_mended, at = True, end
        else:
            view.is_cut = view.is_fragmented
            break
    return view


def _filled(view: View, start: int, end: int, missing: int) -> View | None:
    """The view with so many zeros where the samples from `start` to `end` have a hole; None: nobody knows where."""
    whole = _spliced(view, end, missing)
    hole = _first_refused(whole, start)
    if hole is None or hole > end:  # in a fragment the others are right all the same
        return whole if view.is_fragmented else None
    return _spliced(view, hole, missing)


def _spliced(view: View, place: int, zeros: int) -> Spliced:
    """The view with so many zeros put in."""
    filled = Spliced(view, [(0, place), (None, zeros), (place, view.size - place)])
    filled.is_mended, filled.is_fragmented = True, view.is_fragmented
    return filled


def _moved(view: View, moof: int) -> int:
    """By how many bytes a fragment is nearer to the start than it says (base data offset, 8.8.7)."""
    head = view.at(moof, 256)
    at = head.find(b"tfhd")
    if head[4:8] != b"moof" or at < 0 or not head[at + 7] & 1:
        return 0
    moved = int.from_bytes(head[at + 12 : at + 20], "big") - moof
    return moved if 0 < moved <= LONGEST_HOLE else 0


def _atom(view: View, at: int) -> int | None:
    """Length of the atom at a position; None where there is none."""
    head = view.at(at, 16)
    length = int.from_bytes(head[:4], "big")
    if len(head) < 8 or head[4:8] not in ATOMS:
        return None
    if length == 1:
        length = int.from_bytes(head[8:16], "big")
    return (length or view.size - at) if length >= 8 or not length else None


def _next(view: View, start: int) -> int:
    """Where the next index or fragment starts; the end of the file where there is none."""
    for first in range(start, view.size, WINDOW):
        window, at = view.at(first, WINDOW + 16), -1
        for name, child in ((b"moov", b"mvhd"), (b"moof", b"mfhd")):
            while (at := window.find(name, at + 1)) >= 4:
                if window[at + 8 : at + 12] == child:
                    return first + at - 4
    return view.size


def _first_refused(view: View, start: int = 0) -> int | None:
    """Position of the first packet, from `start` on, where the decoder begins to refuse; None: it takes them all."""
    try:
        with open_container(view.again()) as container:
            stream = container.streams.best("audio")
            packets = ((p.pos, _is_refused(p)) for p in container.demux(stream) if p.size and (p.pos or 0) >= start)
            run: list[tuple[int, bool]] = list(islice(packets, RUN))
            while run:
                if run[0][1] and sum(refused for _, refused in run) >= min(REFUSED, len(run)):
                    return run[0][0]
                run = [*run[1:], *islice(packets, 1)]
    except (av.FFmpegError, AttributeError, OSError):  # no index or no sound
        pass
    return None


def _is_refused(packet: av.Packet) -> bool:
    try:
        packet.decode()
    except av.FFmpegError:
        return True
    return False
