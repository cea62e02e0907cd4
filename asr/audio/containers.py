"""What has to be put right in a file before a decoder sees it: lengths of WAV, tags before it, links of Ogg.

Recorders that crash or write to a pipe leave wrong lengths, and decoders that trust them drop sound without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from asr.audio import avi, mp4, ogg
from asr.audio.report import Report
from asr.audio.views import View

SLACK = 512  # bytes: recorders miscount by as much, and tails of that size hold no words
STREAMED = 0x7FFF_0000  # bytes: writers to a pipe put lengths from here up into a WAV header
TO_THE_END = (0xFFFF_FFFF).to_bytes(4, "little")  # as a length of WAV
# kbit/s of MPEG audio by (is MPEG 1, layer) and the four bits of the header.
BIT_RATES = {
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
ASF_PROPERTIES = bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365")
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS", b"3DI")  # what may stand between or behind the frames of MP3
TAG_HEADER = 32  # bytes that tell the length of a tag
LONGEST_PES = 6 + 0xFFFF  # bytes
CHUNK_LIMIT = 1000  # chunks before the samples; a file with more is no recording


def parts(file: BinaryIO, report: Report) -> Iterator[View]:
    """The recordings in a file, to be played one after the other: the links of an Ogg chain, else all of it.

    Args:
        file: seekable; what lies before its position is not looked at.
        report: gets a remark on every length that is wrong.
    """
    start, end = file.tell(), file.seek(0, os.SEEK_END)
    whole = View(file, start, end)
    behind_tag = id3_bytes(whole)
    head = View(file, start + behind_tag, end)
    magic = head.read(12)
    if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
        _mend_wav(head, report)
        yield head
    elif magic[:4] == b"RIFF" and magic[8:] == b"AVI ":
        yield avi.mended(whole)
    elif magic[:4] == b"OggS":
        firsts = [*ogg.links(head), head.size]
        for first, last in zip(firsts[:-1], firsts[1:], strict=True):
            yield View(file, head.start + first, head.start + last)
    elif magic[4:8] == b"ftyp":
        yield mp4.mended(whole)
    else:
        yield whole


def id3_bytes(view: View) -> int:
    """Length of the ID3v2 tags at the start."""
    length = 0
    while (head := view.at(length, TAG_HEADER)).startswith(b"ID3") and len(head) >= 10:
        length += tag_bytes(head)
    return length


def tag_bytes(head: bytes) -> int:
    """Length of the tag (ID3v2, ID3v1, APE) that starts with these bytes; 0 where none does, or it does not tell."""
    if head.startswith(b"ID3") and len(head) >= 10:
        return 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
    if head.startswith(b"APETAGEX") and len(head) >= 24:
        is_header = head[23] & 0x20  # which its length leaves out
        return int.from_bytes(head[12:16], "little") + 32 if is_header else 32
    return 128 if head.startswith(b"TAG") else 0


def _mend_wav(view: View, report: Report) -> None:
    """Correct the length of the samples where it cannot be right."""
    at = _wav_samples(view)
    if at is None:
        return
    view.seek(at + 4)
    promised, present = int.from_bytes(view.read(4), "little"), view.size - at - 8
    beyond = present - promised
    if present <= 0:
        return
    if beyond < -SLACK and promised < STREAMED:
        view.share = present / promised
        return
    if promised == 0 and _are_chunks(view, at + 8):
        view.size = at + 8  # FFmpeg would take 0 for "to the end"
        return
    if beyond < 0 and promised < STREAMED:
        report.remarks.append(f"its header promises {-beyond} bytes more than there are; read to the end")
    elif beyond > (SLACK if promised else 0) and not _are_chunks(view, at + 8 + promised):
        report.remarks.append(f"its header speaks of {promised} bytes of sound, {present} are there; read to the end")
    elif beyond >= 0:
        return
    view.patches[at + 4] = TO_THE_END


def _wav_samples(view: View) -> int | None:
    """Where the chunk with the samples starts."""
    position = 12
    for _ in range(CHUNK_LIMIT):
        view.seek(position)
        header = view.read(8)
        if len(header) < 8:
            return None
        if header[:4] == b"data":
            return position
        length = int.from_bytes(header[4:], "little")
        position += 8 + length + length % 2
    return None


def _are_chunks(view: View, position: int) -> bool:
    """Whether all from here on are the chunks that may follow the samples of a WAV (titles, markers, tags)."""
    position += position % 2
    while position + 8 <= view.size:
        view.seek(position)
        header = view.read(8)
        if not all(32 <= byte < 127 for byte in header[:4]):
            return False
        length = int.from_bytes(header[4:], "little")
        position += 8 + length + length % 2
    return position - 8 <= view.size + SLACK


def ends_with_whole_ts_packet(view: View) -> bool:
    """Whether a packet of a transport stream (188 bytes, or 204 with check bytes) starts right before the end."""
    view.seek(max(0, view.size - 204))
    tail = view.read()
    return b"G" in (tail[-188:-187], tail[-204:-203])


def ends_with_whole_pes(view: View) -> bool:
    """Whether the last packet of a program stream ends with the file, or the code of its end is there (ISO 13818-1)."""
    tail, at = view.at(max(0, view.size - LONGEST_PES), LONGEST_PES), -1
    while (at := tail.find(b"\0\0\1", at + 1)) >= 0:
        left, kind, length = len(tail) - at, tail[at + 3 : at + 4], int.from_bytes(tail[at + 4 : at + 6], "big")
        if kind == b"\xb9" and left <= SLACK or kind >= b"\xbc" and left == 6 + length:
            return True
    return False


def is_whole_ts(view: View, start: int, end: int, pid: int) -> bool:
    """Whether a transport stream is packets in a row, those of `pid` numbered without a gap (ISO 13818-1, 2.4.3).

    Args:
        start, end: where two of its packets start.
    """
    for length in (188, 192, 204):  # plain, with a time before it, with check bytes behind it
        if (end - start) % length == 0:
            data = view.at(start, end - start + length)
            packets = np.frombuffer(data[: len(data) // length * length], np.uint8).reshape(-1, length).astype(int)
            head = packets[:, :4]
            mine = head[(head[:, 1] & 0x1F) * 256 + head[:, 2] == pid]
            numbers = mine[mine[:, 3] & 0x10 > 0, 3]  # of those with content
            if (head[:, 0] == ord("G")).all():
                return bool((np.diff(numbers) % 16 <= 1).all())  # 0: sent twice
    return False


def is_whole_flv(view: View, start: int, end: int, _: int) -> bool:
    """Whether the tags of an FLV from `start` on follow each other up to `end`, each with its length behind it."""
    while start < end:
        length = 11 + int.from_bytes(view.at(start + 1, 3), "big")
        if int.from_bytes(view.at(start + length, 4), "big") != length:
            return False
        start += length + 4
    return start == end


def mp3_seconds(view: View) -> float | None:
    """Length by the Xing, Info or VBRI header in the first frame of an MP3; None: FFmpeg can only guess it."""
    view.seek(id3_bytes(view))
    head = view.read(256)
    at, frames = max(head.find(b"Xing"), head.find(b"Info")), 0
    if 0 <= at < len(head) - 12 and head[at + 7] & 1:
        frames = int.from_bytes(head[at + 8 : at + 12], "big")
    elif (at := head.find(b"VBRI")) >= 0:
        frames = int.from_bytes(head[at + 14 : at + 18], "big")
    if not frames or not mpeg_frame_bytes(head[:4]):
        return None
    samples, sampling_rate = mpeg_rate(head)
    return frames * samples / sampling_rate


def asf_seconds(view: View) -> float | None:
    """Length by the file properties object of an ASF (WMA, WMV), whose guess by FFmpeg follows what is left of it."""
    view.seek(0)
    head = view.read(1 << 16)
    at = head.find(ASF_PROPERTIES)
    if at < 0 or len(head) < at + 88:
        return None
    played, preroll = (int.from_bytes(head[at + offset : at + offset + 8], "little") for offset in (64, 80))
    return played / 1e7 - preroll / 1e3 or None  # in units of 100 ns and of milliseconds


def mpeg_rate(header: bytes) -> tuple[int, int]:
    """Samples in a frame of MPEG audio and its sampling rate in Hz."""
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples, (44_100, 48_000, 32_000)[header[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]


def mpeg_frame_bytes(header: bytes) -> int:
    """Length of the frame of MPEG audio, layer II or III, that has this header of 4 bytes; 0 where it has none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bit_rate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer not in (2, 3) or bit_rate in (0, 15) or rate == 3:
        return 0
    samples, sampling_rate = mpeg_rate(header)
    kilobits = BIT_RATES[version == 3, layer][bit_rate - 1]
    return samples // 8 * kilobits * 1000 // sampling_rate + (header[2] >> 1 & 1)
