"""Audio in and out: anything that holds sound becomes mono float32 at one sampling rate.

Waves are numpy arrays [samples], full scale 1. `stream` reads block by block, so the length of a recording
does not show in memory; `load` is the same, joined.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from asr.audio.errors import AudioError
from asr.audio.report import Report

SAMPLING_RATE = 16_000  # Hz, of every model in this project
NAME_BYTES = 200  # of a temporary file's name; file systems take 255 for all of it
RATES = (2_000, 768_000)  # Hz; anything outside is a damaged header, not a recording

Source = str | os.PathLike | bytes | BinaryIO


def load(source: Source, sampling_rate: int = SAMPLING_RATE, **options) -> np.ndarray:
    """Decode a whole recording: mono float32 [samples] at `sampling_rate`.

    Args:
        source: path, "-" for standard input, encoded bytes or a binary file object.
        sampling_rate: wanted rate in Hz; the recording is resampled to it.
        options: of `stream`.

    Raises:
        AudioError: missing, unreadable, empty, damaged, truncated, without samples, or with NaN or infinity.
    """
    return np.concatenate(list(stream(source, sampling_rate, **options)))


def stream(
    source: Source, sampling_rate: int = SAMPLING_RATE, *, report: Report | None = None, channel: int | None = None,
    track: int | None = None,
) -> Iterator[np.ndarray]:
    """The blocks of `load`, a few seconds each, in memory that does not grow.

    The time of a sample is its time in the recording: what a container leaves out is silence here.

    Args:
        report: gets what is missing and what is odd; None is a strict one, for which damage is an error.
        channel: of the recording, from 1; None mixes them.
        track: of a container with several audio tracks, from 1; None is its default.

    Raises:
        AudioError: as `load`. Damage may be found after some blocks.
    """
    from asr.audio.decode import Reader
    from asr.audio.samples import to_mono

    name = source_name(source)
    with opened(source, name) as file:
        report = report or Report(strict=True)
        reader = Reader(file, name, report, track)
        rate = reader.sound.sampling_rate
        mono = _finite(to_mono(reader.blocks(), name, reader.sound.layout, channel, report), rate, name, report)
        yield from _not_empty(_resampled(mono, rate, sampling_rate, name), name)


def from_array(
    array, sampling_rate: int | None, target_rate: int = SAMPLING_RATE, channel: int | None = None
) -> np.ndarray:
    """Mono float32 [samples] at `target_rate` from samples that are decoded already.

    Args:
        array: [samples] or [channels, samples]; integers are scaled to full scale 1. CPU tensors will do.
        sampling_rate: of `array`, in Hz.
        channel: to take, from 1; None mixes them.

    Raises:
        AudioError: no samples, NaN or infinity, an impossible shape or rate.
        TypeError: not an array of numbers.
    """
    if sampling_rate is None:
        raise AudioError("array: its sampling rate is unknown; pass sampling_rate in Hz")
    wave = np.asarray(array)
    if wave.dtype.kind not in "fiu":
        raise TypeError(f"array: samples are {wave.dtype}, expected integers or floating point")
    if wave.ndim == 2 and wave.shape[0] > wave.shape[1] > 0:
        raise AudioError(f"array: shape {wave.shape} has more channels than samples; pass it transposed")
    if wave.ndim not in (1, 2):
        raise AudioError(f"array: {wave.ndim} dimensions, expected [samples] or [channels, samples]")
    if wave.dtype.kind in "iu":
        limits = np.iinfo(wave.dtype)
        middle = (limits.max + limits.min + 1) / 2  # unsigned samples are centred on half their range
        wave = (wave.astype(np.float32) - middle) / (limits.max - middle + 1)
    from asr.audio.samples import to_mono

    mono = to_mono([np.atleast_2d(wave).T.astype(np.float32)], "array", channel=channel)
    blocks = _finite(mono, sampling_rate, "array", Report(strict=True))
    return np.concatenate(list(_not_empty(_resampled(blocks, sampling_rate, target_rate, "array"), "array")))


def resample(wave: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Band-limited resampling of wave [samples] by soxr."""
    return np.concatenate(list(_resampled([wave], rate, target_rate, "array")))


def save(path: str | os.PathLike, wave: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> None:
    """Write wave [samples] or [samples, channels] in the format of the extension; the file appears whole."""
    import soundfile

    path = Path(path)
    # An open file, since soundfile cannot name one whose name is no text.
    with atomic_path(path) as temporary, open(temporary, "w+b") as file:
        container = "OGG" if path.suffix.lower() == ".opus" else path.suffix[1:].upper()
        subtype = "OPUS" if path.suffix.lower() == ".opus" else None
        soundfile.write(file, wave, sampling_rate, format=container, subtype=subtype)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    short = os.fsdecode(os.fsencode(path.name)[:NAME_BYTES])
    temporary = path.with_name(f".{short}.{os.getpid()}.tmp")
    try:
        with _sigterm_exits():
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """While open, SIGTERM ends the program by an exception, so that what is temporary is removed."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # someone else takes care of it
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def duration(source: Source) -> float | None:
    """Seconds as promised by the header, None when that takes decoding (or the file is no good)."""
    import av

    from asr.audio.pyav import open_container

    if not isinstance(source, (str, os.PathLike)) or not os.path.isfile(source):  # a pipe can be read only once
        return None
    try:
        with open(source, "rb") as file, open_container(file) as container:
            return container.duration / av.time_base if container.duration and container.streams.audio else None
    except (av.FFmpegError, OSError):
        return None


def source_name(source: Source) -> str:
    """How messages call a source."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes"
    if isinstance(source, (str, os.PathLike)):
        return "stdin" if source == "-" else os.fspath(source)
    return str(getattr(source, "name", type(source).__name__))


@contextlib.contextmanager
def opened(source: Source, name: str) -> Iterator[BinaryIO]:
    """The source as a seekable binary file with at least one byte; a pipe is read once, into a temporary file."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, (bytes, bytearray, memoryview)):
            file = BytesIO(source)
        elif source == "-":
            if sys.stdin is None:
                raise AudioError("stdin: is closed")
            file = sys.stdin.buffer
        elif isinstance(source, (str, os.PathLike)):
            file = stack.enter_context(_open_path(source, name))
        elif hasattr(source, "read"):
            file = source
        else:
            raise TypeError(f"{type(source).__name__} is no audio source; pass a path, bytes or a file")
        if not file.seekable():
            file = stack.enter_context(_spooled(file, name))
        start = file.tell()
        if file.seek(0, os.SEEK_END) <= start:
            raise AudioError(f"{name}: the file is empty (0 bytes)")
        file.seek(start)
        yield file


def _spooled(file: BinaryIO, name: str) -> BinaryIO:
    """A temporary file, without a name where the system allows it, with what is left in `file`."""
    spool = None
    try:
        spool = tempfile.TemporaryFile()
        shutil.copyfileobj(file, spool)
        spool.seek(0)
    except OSError as error:
        if spool:
            spool.close()
        raise AudioError(f"{name}: cannot be copied to a temporary file ({error.strerror})") from None
    return spool


def _open_path(path: str | os.PathLike, name: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise AudioError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise AudioError(f"{name}: is a folder, not an audio file") from None
    except PermissionError:
        raise AudioError(f"{name}: no permission to read it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise AudioError(f"{name}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None


def _finite(blocks: Iterable[np.ndarray], rate: int, name: str, report: Report) -> Iterator[np.ndarray]:
    """The blocks; samples that are no numbers become silence, which the report says. They may not all be none."""
    position, numbers = 0, 0
    for block in blocks:
        finite = np.isfinite(block)
        numbers += int(finite.sum())
        if not finite.all():
            bad = np.flatnonzero(~finite)
            start = (position + int(bad[0])) / rate
            if report.strict:
                raise AudioError(f"{name}: NaN or infinite sample at {start:.3f} s; the recording is damaged")
            report.lose(start, (position + int(bad[-1]) + 1) / rate)
            block = np.where(finite, block, np.float32(0))
        position += len(block)
        yield block
    if position and not numbers:
        raise AudioError(f"{name}: all samples are NaN or infinite; the recording is damaged")


def _resampled(blocks: Iterable[np.ndarray], rate: int, target: int, name: str) -> Iterator[np.ndarray]:
    """Resample a stream with soxr, whose filter state bridges the block boundaries."""
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"{name}: sampling rate {rate} Hz is outside {RATES[0]}..{RATES[1]} Hz")
    if rate == target:
        yield from blocks
        return
    import soxr

    resampler = soxr.ResampleStream(rate, target, num_channels=1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _not_empty(blocks: Iterable[np.ndarray], name: str) -> Iterator[np.ndarray]:
    total = 0
    for block in blocks:
        total += len(block)
        yield block
    if not total:
        raise AudioError(f"{name}: holds no samples (zero length)")
