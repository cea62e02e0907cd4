"""Enhanced recordings on disk: they appear whole or not at all, and what prevents it is said."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import soundfile

from asr.audio.decode import Sound
from asr.audio.io import atomic_path
from asr.console.program import reason

BYTES = {"PCM_U8": 1, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}  # of a sample; else 2
LONGEST_WAV = (1 << 32) - (1 << 20)  # bytes, with room for its header
# Sample formats that soundfile can keep, by what FFmpeg calls plain samples; all others have 16 bits or fewer.
PLAIN = {"u8": "PCM_U8", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT", "f64": "DOUBLE"}


def subtype_of(sound: Sound) -> str | None:
    """The sample format of a recording as soundfile names it; None is the usual one, of 16 bits."""
    if sound.codec.startswith("pcm_"):
        return PLAIN.get(sound.codec.removeprefix("pcm_").removesuffix("le").removesuffix("be"))
    if sound.codec == "wavpack" and sound.sample_format.startswith("flt"):
        return "FLOAT"
    if sound.sample_format in ("s32", "s32p"):  # lossless codecs
        return "PCM_32" if sound.bits == 32 else "PCM_24"
    return None


class RecordingWriter:
    """Writes blocks of one recording: `with RecordingWriter("clean.wav", 48_000, 2) as writer: writer.write(block)`.

    Args:
        target: path; its extension names the format.
        sampling_rate: in Hz.
        channels: how many.
        subtype: sample format as soundfile names it, "PCM_24" for one; None is the format's usual one.
        seconds: about how long it will be; a WAV ends at 4 GiB, so a long one becomes an RF64 (EBU Tech 3306).

    Raises:
        OSError: the target cannot be written (no permission, a full disk ...); the message says why.
    """

    def __init__(
        self, target: str | Path, sampling_rate: int, channels: int, subtype: str | None = None,
        seconds: float | None = None,
    ):
        self.target = Path(target)
        container = self.target.suffix[1:].upper()
        self.is_reduced = subtype is not None and not soundfile.check_format(container, subtype)
        if self.is_reduced:
            subtype = "PCM_24"  # FLAC has no floating point and here no 32 bits
        size = (seconds or 0.0) * sampling_rate * channels * BYTES.get(subtype, 2)
        if container == "WAV" and size > LONGEST_WAV / 2:  # half, as durations may be estimates
            container = "RF64"
        self._format = {"format": container, "samplerate": sampling_rate, "channels": channels, "subtype": subtype}

    def __enter__(self) -> RecordingWriter:
        with _blaming(self.target), ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.target))
            self._sink = stack.enter_context(_Sink(temporary, "w+"))
            self._sound = stack.enter_context(soundfile.SoundFile(self._sink, "w", **self._format))
            self._stack = stack.pop_all()
        return self

    def write(self, block: np.ndarray) -> None:
        """Append samples [samples, channels], full scale 1."""
        with _blaming(self.target):
            self._sound.write(block)
            self._sink.check()
            if self._format["format"] == "WAV" and self._sink.tell() > LONGEST_WAV:
                raise OSError(f"longer than its source promised: a WAV ends at {LONGEST_WAV >> 20} MiB")

    def __exit__(self, kind, error, trace) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with _blaming(self.target), self._stack:
            self._sound.close()  # which writes lengths into the header
            self._sink.check()


class _Sink(io.FileIO):
    """A file that remembers its first error, which libsndfile would call "System error"."""

    error: OSError | None = None

    def write(self, data) -> int:
        size, rest = len(data), memoryview(data)
        try:
            while rest and not self.error:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def check(self) -> None:
        if self.error:
            raise self.error


@contextmanager
def _blaming(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, soundfile.SoundFileError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
        raise OSError(f"{target} cannot be written ({cause})") from None
