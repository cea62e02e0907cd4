"""Parts of an open file, mended on the way, as files of their own: what decoders are given to read."""

from __future__ import annotations

import os
from bisect import bisect_right
from copy import copy
from itertools import accumulate
from typing import BinaryIO


class View:
    """The bytes from `start` to `end` of an open file as a file of its own; `patches` replace some, by position."""

    def __init__(self, file: BinaryIO | View, start: int, end: int):
        self.file, self.start, self.size = file, start, end - start
        self.name = ""  # how messages call it
        self.patches: dict[int, bytes] = {}
        self.share = 1.0  # of what its header promises is there
        self.framing = None  # what asr.audio.framing has found out about it
        # What asr.audio.mp4 has: damage was mended, it comes in fragments, the last of which is cut.
        self.is_mended = self.is_fragmented = self.is_cut = False
        self.position = 0

    def again(self) -> View:
        """The same bytes with a position of their own."""
        view = copy(self)
        view.position = 0
        return view

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self.position)
        data = self._bytes(self.position, left if count < 0 else min(count, left))
        for at, patch in self.patches.items():
            first, last = max(at, self.position), min(at + len(patch), self.position + len(data))
            if first < last:
                mine = first - self.position
                data = data[:mine] + patch[first - at : last - at] + data[mine + last - first :]
        self.position += len(data)
        return data

    def at(self, position: int, count: int) -> bytes:
        """So many bytes from a position on, fewer at the end."""
        self.seek(position)
        return self.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def tell(self) -> int:
        return self.position

    def seekable(self) -> bool:
        return True

    def _bytes(self, position: int, count: int) -> bytes:
        self.file.seek(self.start + position)
        return self.file.read(count)


class Spliced(View):
    """Pieces of a view, one after the other, as a file.

    Args:
        view: whose bytes they are.
        pieces: (position, length) of each; a position of None stands for zeros.
    """

    def __init__(self, view: View, pieces: list[tuple[int | None, int]]):
        super().__init__(view, 0, sum(length for _, length in pieces))
        self.pieces, self.ends = pieces, list(accumulate(length for _, length in pieces))
        self.share = view.share

    def _bytes(self, position: int, count: int) -> bytes:
        found, number = [], bisect_right(self.ends, position)
        while count > 0 and number < len(self.pieces):
            start, length = self.pieces[number]
            skipped = position - (self.ends[number] - length)
            taken = min(count, length - skipped)
            found.append(bytes(taken) if start is None else self.file.at(start + skipped, taken))
            position, count, number = position + taken, count - taken, number + 1
        return b"".join(found)
