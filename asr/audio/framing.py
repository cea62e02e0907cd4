"""The frames of streams without a container: MPEG audio (layers II and III), AAC in ADTS, AC-3, WavPack.

Such a stream keeps no times: when a frame is played is how many there were before it. So what lies between frames has
to be measured, and a decoder is given whole frames only, since FFmpeg passes over some damage without a word. A header
tells its frame's length: ISO 11172-3 (2.4.1.3), ISO 13818-7 (1.A.2), ETSI TS 102 366 (5.3, E.1.2).

Where damage has replaced bytes, their number tells how much is missing. Where bytes are gone, nothing in the stream
does: the recordings A-x-B-yy-C and A-xx-B-y-C, of frames x and y that are lost, leave the same bytes
(tests/asr/audio/test_framing.py). A header that counts the frames (Xing) gives the sum, and so the truth where there is
one such place.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from asr.audio.containers import TAG_HEADER, TAGS, mpeg_frame_bytes, mpeg_rate, tag_bytes
from asr.audio.views import Spliced, View

HEADER = 8  # bytes that tell what a frame is
WINDOW = 1 << 20  # bytes read at once
LONGEST_BLOCK = 1 << 20  # bytes of WavPack
PROOF = 4  # frames in a row by which a stream is known where it starts or changes
NEAR = 40  # frames on either side of a hole, whose lengths tell what its bytes would have held
PADDING = 1.0  # seconds; less that is no frame, behind the last one, is no sign of lost sound


class Header(NamedTuple):
    """Of a frame: its bytes, its duration, and what stays the same throughout a stream."""

    length: int
    seconds: float
    kind: tuple


def mpeg_header(head: bytes) -> Header | None:
    length = mpeg_frame_bytes(head)
    if not length:
        return None
    samples, rate = mpeg_rate(head)
    return Header(length, samples / rate, (head[1] & 0xFE, head[2] & 0x0C, head[3] & 0xC0 == 0xC0))


def adts_header(head: bytes) -> Header | None:
    rates = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 >= len(rates):
        return None
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    seconds = 1024 * ((head[6] & 3) + 1) / rates[head[2] >> 2 & 15]
    return Header(length, seconds, (head[1], head[2], head[3] & 0xC0)) if length > 7 else None


def ac3_header(head: bytes) -> Header | None:
    kilobits = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
    if len(head) < 6 or head[:2] != b"\x0b\x77" or head[4] >> 6 == 3:
        return None
    rate, version = (48_000, 44_100, 32_000)[head[4] >> 6], head[5] >> 3
    if 10 < version <= 16:  # E-AC-3; a dependent substream adds channels and no time
        blocks = 0 if head[2] >> 6 == 1 else (1, 2, 3, 6)[head[4] >> 4 & 3]
        return Header(2 * ((head[2] & 7) << 8 | head[3]) + 2, 256 * blocks / rate, (rate, version))
    code = head[4] & 63
    if version > 10 or code >> 1 >= len(kilobits):
        return None
    words = kilobits[code >> 1] * 96_000 // rate
    rate >>= max(0, version - 8)
    return Header(2 * (words + (code & 1 if rate % 11_025 == 0 else 0)), 1536 / rate, (rate, version))


def wavpack_header(head: bytes) -> Header | None:
    """Of a block of WavPack, which has its time: https://www.wavpack.com/WavPack5FileFormat.pdf, section 2."""
    length = int.from_bytes(head[4:8], "little") + 8
    return Header(length, 0.0, (b"wvpk",)) if head[:4] == b"wvpk" and 32 <= length < LONGEST_BLOCK else None


# By FFmpeg's name of a format: what reads a header and how one starts.
HEADERS: dict[str, tuple[Callable[[bytes], Header | None], bytes]] = {
    "mp3": (mpeg_header, b"\xff"), "aac": (adts_header, b"\xff"), "ac3": (ac3_header, b"\x0b\x77"),
    "eac3": (ac3_header, b"\x0b\x77"), "wv": (wavpack_header, b"wvpk"),
}  # fmt: skip


@dataclass
class Hole:
    """A place between frames.

    Attributes:
        frames: how many are before it.
        place: of the next one, in bytes of frames.
        junk: bytes that are no frame.
        seconds: of what is missing.
    """

    frames: int
    place: int
    junk: int
    seconds: float = 0.0


@dataclass
class Framing:
    """What a stream is made of.

    Attributes:
        parse: reads a frame's header.
        pieces: (position, length) of the runs of whole frames.
        lengths: of the frames, in bytes.
        holes: between them, and one behind the last where more than a little follows it.
        seconds: of one frame.
        is_cut: whether the last frame is.
        doubt: seconds by which frames may be misplaced; None: nobody knows by how much.
    """

    parse: Callable[[bytes], Header | None]
    pieces: list[tuple[int, int]] = field(default_factory=list)
    lengths: array = field(default_factory=lambda: array("L"))
    holes: list[Hole] = field(default_factory=list)
    seconds: float = 0.0
    is_cut: bool = False
    doubt: float | None = 0.0

    def spliced(self, view: View) -> Spliced:
        """The frames alone."""
        return Spliced(view, self.pieces)

    def add(self, position: int, header: Header) -> None:
        """Append a frame."""
        if self.pieces and sum(self.pieces[-1]) == position:
            self.pieces[-1] = (self.pieces[-1][0], self.pieces[-1][1] + header.length)
        else:
            self.pieces.append((position, header.length))
        if header.seconds or not self.lengths:
            self.lengths.append(header.length)
        else:
            self.lengths[-1] += header.length
        self.seconds = max(self.seconds, header.seconds)

    def dig(self, junk: int) -> None:
        """Append a hole."""
        self.holes.append(Hole(len(self.lengths), sum(length for _, length in self.pieces), junk))

    def measure(self, total: float | None) -> None:
        """Set the seconds of each hole, and the doubt about them.

        Args:
            total: seconds of all frames that there were, as a header counts them.
        """
        if total is not None and total < len(self.lengths) * self.seconds:
            total = None  # it counts those of the first of several joined files
        if self.holes and not self.holes[0].frames and self.holes[0].junk < self.lengths[0]:
            self.holes.pop(0)  # half a frame, of the longer stream that this was cut out of
        is_last = bool(self.holes) and self.holes[-1].frames == len(self.lengths)
        unknown = [hole for hole in self.holes if not self._fill(hole)]
        if is_last and self.holes[-1].seconds < PADDING:
            unknown = [hole for hole in unknown if hole is not self.holes[-1]]
            self.holes.pop()
        if total is None or self.is_cut or is_last:
            self.doubt = None if unknown else 0.0
            return
        found = sum(hole.seconds for hole in self.holes)
        more = total - len(self.lengths) * self.seconds - found
        for hole in self.holes if more < 0 else unknown:
            hole.seconds += more * hole.seconds / found if more < 0 else more / len(unknown)
        self.doubt = max(0.0, more) * (1 - 1 / len(unknown)) if unknown else 0.0

    def _fill(self, hole: Hole) -> bool:
        """Set what the bytes of a hole have held; returns whether that is all there was."""
        near = self.lengths[max(0, hole.frames - NEAR) : hole.frames + NEAR]
        frames = round(hole.junk * len(near) / sum(near))
        hole.seconds = max(1, frames) * self.seconds
        is_constant = max(near) <= min(near) + 1  # a byte of padding
        return is_constant and frames * min(near) <= hole.junk <= frames * max(near)


def framing_of(view: View, format: str) -> Framing | None:
    """The frames of a stream; None where it has none that can be told by their headers.

    Args:
        format: FFmpeg's name of it.
    """
    if format in HEADERS and view.framing is None:
        view.framing = _Scanner(view, *HEADERS[format]).scan()
    return view.framing if view.framing and view.framing.lengths else None


class _Scanner:
    """Walks from header to header."""

    def __init__(self, view: View, parse: Callable[[bytes], Header | None], mark: bytes):
        self.view, self.parse, self.mark, self.size = view.again(), parse, mark, view.size
        self.window, self.first = b"", 0  # bytes in memory and where they lie
        self.kind: tuple | None = None

    def scan(self) -> Framing:
        framing, position = Framing(self.parse), self._behind_tags(0)
        while position < self.size:
            header = self._header(position)
            is_ours = header is not None and header.kind == self.kind
            end = position + header.length if is_ours else position
            if is_ours and end <= self.size and self._goes_on(end):
                framing.add(position, header)
            else:
                following = self._next(position + 1 if is_ours else position)
                if is_ours and end <= following and end <= self.size:
                    framing.add(position, header)  # whole, although nothing good follows it
                elif is_ours and end > self.size:
                    framing.is_cut = True
                    break
                else:
                    end = position
                if not self._at(end, HEADER).startswith(TAGS):
                    framing.dig(following - end)
                end = following
            position = self._behind_tags(end)
        return framing

    def _goes_on(self, position: int) -> bool:
        """Whether a frame, a tag or the end of the file is at a position."""
        header = self._header(position)
        return header is not None and header.kind == self.kind or self._is_end(position)

    def _next(self, position: int) -> int:
        """Where the next frames start: two of the same kind or several of a new one; else the end of the file."""
        for candidate in self._candidates(position):
            kinds = self._kinds(candidate)
            if len(kinds) >= 2 and kinds[0] == kinds[1] == self.kind:
                return candidate
            if len(kinds) == PROOF and len(set(kinds)) == 1 or self._ends_after(candidate, len(kinds)):
                self.kind = kinds[0]
                return candidate
        return self.size

    def _ends_after(self, position: int, frames: int) -> bool:
        """Whether a file of so few frames, or its last one of our kind, ends behind them."""
        first = position
        for _ in range(frames):
            header = self._header(position)
            if self.kind is not None and header.kind != self.kind:
                return False
            position += header.length
        return frames > 0 and self._is_end(position) and (self.kind is not None or frames > 1 or first == 0)

    def _is_end(self, position: int) -> bool:
        return position == self.size or self._at(position, HEADER).startswith(TAGS)

    def _candidates(self, position: int) -> Iterator[int]:
        while position < self.size:
            self._at(position, 1)
            found = self.window.find(self.mark, position - self.first)
            if found < 0:
                position = self.first + len(self.window)
                continue
            position = self.first + found + 1
            yield position - 1

    def _kinds(self, position: int) -> list[tuple]:
        """Of the frames in a row from a position on, at most PROOF."""
        kinds = []
        while len(kinds) < PROOF and (header := self._header(position)) is not None:
            kinds.append(header.kind)
            position += header.length
        return kinds

    def _behind_tags(self, position: int) -> int:
        while length := tag_bytes(self._at(position, TAG_HEADER)):
            position += length
        return position

    def _header(self, position: int) -> Header | None:
        return self.parse(self._at(position, HEADER))

    def _at(self, position: int, count: int) -> bytes:
        start = position - self.first
        if start < 0 or start + count > len(self.window):
            self.window, self.first, start = self.view.at(position, WINDOW), position, 0
        return self.window[start : start + count]
