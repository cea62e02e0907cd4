"""Audio in and out: anything that holds sound becomes mono float32 at one sampling rate.

Waves are numpy arrays [samples], full scale 1. `stream` reads block by block, so the length of a recording
does not show in memory; `load` is the same, joined.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from asr.audio.errors import AudioError

SAMPLING_RATE = 16_000  # Hz, of every model in this project
RATES = (2_000, 768_000)  # Hz; anything outside is a damaged header, not a recording

Source = str | os.PathLike | bytes | BinaryIO


def load(source: Source, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Decode a whole recording: mono float32 [samples] at `sampling_rate`.

    Args:
        source: path, "-" for standard input, encoded bytes or a binary file object.
        sampling_rate: wanted rate in Hz; the recording is resampled to it.

    Raises:
        AudioError: missing, unreadable, empty, damaged, truncated, without samples, or with NaN or infinity.
    """
    return np.concatenate(list(stream(source, sampling_rate)))


def stream(source: Source, sampling_rate: int = SAMPLING_RATE) -> Iterator[np.ndarray]:
    """The blocks of `load`, a few seconds each, in memory that does not grow. Raises what `load` raises.

    A truncated recording is known as such only at its end: the error may come after some blocks.
    """
    from asr.audio.decode import decode

    name = source_name(source)
    with opened(source, name) as file:
        rate, blocks = decode(file, name, sampling_rate)
        mono = (block.mean(axis=1) for block in blocks)
        yield from _not_empty(_resampled(_finite(mono, rate, name), rate, sampling_rate, name), name)


def from_array(array, sampling_rate: int | None, target_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Mono float32 [samples] at `target_rate` from samples that are decoded already.

    Args:
        array: [samples] or [channels, samples]; integers are scaled to full scale 1. CPU tensors will do.
        sampling_rate: of `array`, in Hz.

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
    mono = wave.mean(axis=0) if wave.ndim == 2 else wave
    blocks = _finite([mono.astype(np.float32)], sampling_rate, "array")
    return np.concatenate(list(_not_empty(_resampled(blocks, sampling_rate, target_rate, "array"), "array")))


def resample(wave: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """Band-limited resampling of wave [samples] by soxr."""
    return np.concatenate(list(_resampled([wave], rate, target_rate, "array")))


def save(path: str | os.PathLike, wave: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> None:
    """Write wave [samples] or [samples, channels] in the format of the extension; the file appears whole."""
    import soundfile

    path = Path(path)
    with atomic_path(path) as temporary:
        container = "OGG" if path.suffix.lower() == ".opus" else path.suffix[1:].upper()
        subtype = "OPUS" if path.suffix.lower() == ".opus" else None
        soundfile.write(temporary, wave, sampling_rate, format=container, subtype=subtype)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def duration(source: Source) -> float | None:
    """Seconds as promised by the header, None when that takes decoding (or the file is no good)."""
    import soundfile

    from asr.audio.decode import muted

    if not isinstance(source, (str, os.PathLike)) or source == "-":
        return None
    try:
        with muted():
            return soundfile.info(source).duration
    except (soundfile.SoundFileError, TypeError):
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
    """The source as a seekable binary file with at least one byte."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, (bytes, bytearray, memoryview)):
            file = BytesIO(source)
        elif source == "-":
            file = sys.stdin.buffer
        elif isinstance(source, (str, os.PathLike)):
            file = stack.enter_context(_open_path(source, name))
        elif hasattr(source, "read"):
            file = source
        else:
            raise TypeError(f"{type(source).__name__} is no audio source; pass a path, bytes or a file")
        if not file.seekable():
            spool = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, spool)
            file = spool
        start = file.tell() if file is source else 0
        if file.seek(0, os.SEEK_END) <= start:
            raise AudioError(f"{name}: the file is empty (0 bytes)")
        file.seek(start)
        yield file


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


def _finite(blocks: Iterable[np.ndarray], rate: int, name: str) -> Iterator[np.ndarray]:
    position = 0
    for block in blocks:
        finite = np.isfinite(block)
        if not finite.all():
            seconds = (position + int(np.argmin(finite))) / rate
            raise AudioError(f"{name}: NaN or infinite sample at {seconds:.3f} s; the recording is damaged")
        position += len(block)
        yield block


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
