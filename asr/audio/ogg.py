"""The pages of an Ogg (RFC 3533): links of a chain, the clock of a stream, whether its end is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

from asr.audio.views import Spliced, View

LONGEST_PAGE = 1 << 16  # bytes, a little more than there can be
SLACK = 512  # bytes behind the last page that are no loss: tags of other formats
MANY = 1000  # pages; more are not lost in the last LONGEST_PAGE bytes
POLYNOMIAL = 0x04C1_1DB7
# What each leading byte adds to a checksum.
CHECKSUMS = [
    reduce(lambda value, _: (value << 1 ^ (POLYNOMIAL if value >> 31 else 0)) & 0xFFFF_FFFF, range(8), byte << 24)
    for byte in range(256)
]


@dataclass(frozen=True)
class Page:
    """A page as its header describes it.

    Attributes:
        at: where it is, in bytes.
        length: in bytes.
        is_first: whether it begins a stream.
        granule: the position at its end, in samples of the codec.
        serial: of its stream.
        number: in the stream.
    """

    at: int
    length: int
    is_first: bool
    granule: int
    serial: int
    number: int

    @property
    def end(self) -> int:
        return self.at + self.length


def links(view: View) -> list[int]:
    """Where the links of a chained Ogg start (RFC 3533, section 4: icecast writes one per song)."""
    starts, in_header = [0], True
    for page in _pages(view, 0):
        if page.is_first and not in_header:
            starts.append(page.at)
        in_header = page.is_first
    return starts


@dataclass(frozen=True)
class Clock:
    """Of a stream, in samples of its codec: the positions at the end of its first page with sound and of its last page.

    `first` is 0 where that page is damaged or no page follows the headers. `last_page` is where the last one starts.
    """

    first: int
    last: int
    last_page: int


def clock(view: View) -> Clock | None:
    """The clock of an Ogg. None: it holds several streams, each with its own."""
    first, end, streams, serial, number = 0, 0, 0, None, 0
    for page in _pages(view, 0):
        if first or page.at != end or not _is_intact(view, page) or view.is_mended and page.number != number:
            break
        number += 1
        first, end, streams, serial = max(0, page.granule), page.end, streams + page.is_first, page.serial  # 0: headers
    if streams != 1:
        return None
    last = None
    for page in _pages(view, max(0, view.size - LONGEST_PAGE)):
        follows = page.serial == serial and (last is None or 0 < page.number - last.number < MANY)
        if follows or _is_intact(view, page):  # a header that agrees with the others may be believed
            last = page
    return Clock(first, last.granule, last.at) if last else Clock(first, 0, 0)


def granule(view: View, place: int) -> int:
    """The position at the end of the page at a place, in samples of the codec."""
    return int.from_bytes(view.at(place + 6, 8), "little", signed=True)


def intact(view: View) -> Spliced:
    """The pages that agree with their checksums: a damaged one can make FFmpeg refuse all of a file."""
    pieces = [(page.at, page.length) for page in _pages(view, 0) if _is_intact(view, page)]
    pages = Spliced(view, pieces)
    pages.is_mended = True
    return pages


def ends_with_whole_page(view: View) -> bool:
    """Whether nothing is cut off the last page of an Ogg (RFC 3533, section 6)."""
    end = max(0, view.size - LONGEST_PAGE)
    for page in _pages(view, end):
        end = page.end
    return view.size - SLACK <= end <= view.size and b"OggS" not in view.at(end, LONGEST_PAGE)


def _pages(view: View, start: int) -> Iterator[Page]:
    """The pages from a position on, whatever lies between them."""
    at, before = start, start - 1
    while True:
        page = _page(view, at)
        if at > start and (page is None or page.at != at):  # the last one does not end where it says
            page = _page(view, before + 1)
        if page is None:
            return
        yield page
        at, before = page.end, page.at


def _page(view: View, at: int) -> Page | None:
    """The next page at or after a position."""
    header = view.at(at, 27 + 255)
    while header[:5] != b"OggS\0":
        found = header.find(b"OggS\0", 1)
        if found < 0:
            if len(header) < 5:
                return None
            found = len(header) - 4
        at += found
        header = view.at(at, LONGEST_PAGE)
    if len(header) < 27 or len(header) < 27 + header[26]:
        return None
    length = 27 + header[26] + sum(header[27 : 27 + header[26]])
    granule = int.from_bytes(header[6:14], "little", signed=True)
    serial, number = (int.from_bytes(header[i : i + 4], "little") for i in (14, 18))
    return Page(at, length, bool(header[5] & 2), granule, serial, number)


def _is_intact(view: View, page: Page) -> bool:
    """Whether a page agrees with its checksum (RFC 3533, section 6, field 7)."""
    data, checksum = view.at(page.at, page.length), 0
    for byte in data[:22] + bytes(4) + data[26:]:
        checksum = (checksum << 8 & 0xFFFF_FFFF) ^ CHECKSUMS[checksum >> 24 ^ byte]
    return len(data) == page.length and checksum == int.from_bytes(data[22:26], "little")
