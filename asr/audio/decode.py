"""Decoders behind `asr.audio.io`: soundfile for what libsndfile knows, ffmpeg for the rest.

Losing the end of a recording would silently lose text, so a file that ends before its own header says it
should is an error. Each container tells that in its own way: see `_check_ending`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

import numpy as np
import soundfile

from asr.audio.errors import AudioError

BLOCK_SAMPLES = 1 << 16  # per block, all channels together; seconds, not minutes, of speech
TAIL = 1 << 16  # bytes: the largest Ogg page, and more than the tags at the end of an MP3
MP3_FRAME = 2881  # bytes, the longest frame of MPEG audio layer III
UNKNOWN_SIZE = 0x7FFF_0000  # bytes: writers to a pipe put sizes from here up into a WAV header
MALFORMED = 3  # libsndfile's error code
# How libsndfile's log speaks of missing samples in WAV, AIFF and AU.
SHORT_DATA = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
UNKNOWN_FRAMES = 1 << 60  # libsndfile's word for a length it cannot know is 2^63 - 1
_MUTE = threading.Lock()


class _OneWay(soundfile.SoundFile):
    """soundfile seeks after every read, which costs an MP3 decoder its bit reservoir: a click per block."""

    def seekable(self) -> bool:
        return False


def decode(file: BinaryIO, name: str, target_rate: int) -> tuple[int, Iterator[np.ndarray]]:
    """Sampling rate in Hz and blocks [samples, channels] of an open, seekable file.

    ffmpeg mixes and resamples on its own, so its blocks are mono at `target_rate`.

    Raises:
        AudioError: what the file holds cannot be decoded, at once or from the iterator.
    """
    start = file.tell()
    guessed = _length_is_a_guess(file, name)
    if guessed and shutil.which("ffmpeg"):
        return target_rate, _ffmpeg_blocks(file, name, target_rate, "an MP3 without its length")
    if _is_opus(file) and shutil.which("ffmpeg"):
        if not _ends_with_whole_page(file):
            raise AudioError(f"{name}: truncated: the last Ogg page is cut")
        file.seek(start)
        return target_rate, _ffmpeg_blocks(file, name, target_rate, "an Opus file")
    try:
        with muted():
            audio = _OneWay(file)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: the extension .raw
        if getattr(error, "code", None) == MALFORMED:  # ffmpeg would make do with what is left of it
            raise AudioError(f"{name}: damaged or truncated: {_reason(error)}") from None
        file.seek(start)
        return target_rate, _ffmpeg_blocks(file, name, target_rate, _reason(error))
    return audio.samplerate, _soundfile_blocks(audio, file, name, guessed)


@contextmanager
def muted() -> Iterator[None]:
    """Keep libmpg123 quiet, which writes its opinion of each damaged frame straight to file descriptor 2."""
    with _MUTE, open(os.devnull, "wb") as nowhere:
        saved = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _soundfile_blocks(audio, file: BinaryIO, name: str, guessed: bool) -> Iterator[np.ndarray]:
    with audio:
        _check_ending(audio, file, name)
        position = 0
        frames = max(1, BLOCK_SAMPLES // audio.channels)
        while True:
            try:
                with muted():
                    block = audio.read(frames, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                stop = f"{_short(position, audio)} or a little later ({_reason(error)})"
                raise AudioError(f"{name}: {stop}") from None
            if not len(block):
                break
            position += len(block)
            yield block
        if guessed and file.tell() < file.seek(0, os.SEEK_END) - TAIL:
            raise AudioError(f"{name}: this MP3 does not tell its length; install ffmpeg to decode it whole")
        slack = 2 * 1152 if audio.format == "MP3" else 0  # some encoders count their header as a frame
        if not guessed and position < audio.frames - slack and audio.frames < UNKNOWN_FRAMES:
            raise AudioError(f"{name}: {_short(position, audio)}")


def _short(position: int, audio) -> str:
    promised = audio.frames / audio.samplerate
    return f"damaged or truncated: decoding stops at {position / audio.samplerate:.2f} of {promised:.2f} s"


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").strip().rstrip(".")


def _check_ending(audio, file: BinaryIO, name: str) -> None:
    """Raise when the container shows that its end is missing.

    FLAC needs no check, its decoder reports a lost end.
    """
    if sizes := SHORT_DATA.search(audio.extra_info):
        promised, present = map(int, sizes.groups())
        if present < promised < UNKNOWN_SIZE:
            raise AudioError(f"{name}: truncated: {present} of {promised} bytes of samples are there")
    position = file.tell()
    if audio.format == "OGG" and not _ends_with_whole_page(file):
        seconds = audio.frames / audio.samplerate
        raise AudioError(f"{name}: truncated: the last Ogg page is cut, after {seconds:.2f} s")
    file.seek(position)


def _ends_with_whole_page(file: BinaryIO) -> bool:
    """Whether the last Ogg page (RFC 3533, section 6) is all there."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read()
    page = tail[tail.rfind(b"OggS"):]
    if not page.startswith(b"OggS") or len(page) < 27 or len(page) < 27 + page[26]:
        return False
    header = 27 + page[26]
    return len(page) >= header + sum(page[27:header])


def _is_opus(file: BinaryIO) -> bool:
    """Whether this is Opus in Ogg, of which libsndfile 1.2 calls one whole file in twenty malformed."""
    start = file.tell()
    head = file.read(64)
    file.seek(start)
    return head.startswith(b"OggS") and b"OpusHead" in head


def _length_is_a_guess(file: BinaryIO, name: str) -> bool:
    """Whether this is an MP3 whose length libsndfile guesses from its first frame, and would cut there.

    That is so without a Xing header and when more follows than that header speaks of (joined files).

    Raises:
        AudioError: less than that follows.
    """
    start = file.tell()
    first = _skip_id3(file)
    head = file.read(64)
    present = file.seek(0, os.SEEK_END) - first
    file.seek(start)
    is_mp3 = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2  # sync, layer III
    if not is_mp3:
        return False
    promised = _xing_bytes(head)
    if promised is None:
        return True
    if present < promised - MP3_FRAME:
        raise AudioError(f"{name}: truncated: {present} of {promised} bytes of MP3 are there")
    return present > promised + TAIL


def _skip_id3(file: BinaryIO) -> int:
    """Move an open file past its ID3v2 tags, return the position."""
    while (tag := file.read(10)).startswith(b"ID3") and len(tag) == 10:
        size = int.from_bytes(tag[6:10], "big")
        file.seek(sum((size >> 8 * i & 0x7F) << 7 * i for i in range(4)), os.SEEK_CUR)
    return file.seek(-len(tag), os.SEEK_CUR)


def _xing_bytes(head: bytes) -> int | None:
    """Bytes of MP3 promised by the Xing or Info header in the first frame."""
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0 or len(head) < at + 16 or not head[at + 7] & 2:
        return None
    field = at + 8 + 4 * (head[at + 7] & 1)  # the number of frames comes first, when it is there
    return int.from_bytes(head[field : field + 4], "big")


def _ffmpeg_blocks(file: BinaryIO, name: str, rate: int, reason: str) -> Iterator[np.ndarray]:
    """Blocks [samples, 1] at `rate` from an ffmpeg process; `reason` says why soundfile was no use."""
    if not shutil.which("ffmpeg"):
        raise AudioError(f"{name}: cannot be decoded ({reason}); other formats need ffmpeg on the PATH")
    with ExitStack() as stack:
        path = _path_of(file, stack)
        messages = stack.enter_context(tempfile.TemporaryFile())
        command = ["ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "file", "-i", f"file:{path}",
                   "-map", "0:a:0", "-ac", "1", "-ar", str(rate), "-f", "f32le", "pipe:1"]
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages))
        stack.callback(process.kill)  # runs before the wait of Popen's own exit
        while data := process.stdout.read(4 * BLOCK_SAMPLES):
            yield np.frombuffer(data[: len(data) // 4 * 4], np.float32)[:, None]
        failed = process.wait() != 0
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip().splitlines()
    ending = next((line for line in said if re.search("partial file|prematurely|truncated", line)), None)
    if failed or ending:
        message = ending or (said[0] if said else "no reason given")
        what = re.sub(r"^\[.*?\] |^file:.*?: ", "", message).rstrip(".")
        raise AudioError(f"{name}: cannot be decoded as audio ({reason}; ffmpeg: {what})")


def _path_of(file: BinaryIO, stack: ExitStack) -> str:
    """A path that holds the bytes of an open file: its own or a temporary copy."""
    path = getattr(file, "name", None)
    if isinstance(path, (str, os.PathLike)) and file.tell() == 0 and os.path.isfile(path):
        return os.fspath(path)
    copy = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".audio"))
    shutil.copyfileobj(file, copy)
    copy.flush()
    return copy.name
