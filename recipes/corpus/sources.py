"""Recordings of rows, wherever they lie, opened for `asr.Transcriber` and `enhance.Denoiser`."""

from __future__ import annotations

import io

import numpy as np

from asr.audio.errors import AudioError
from recipes.corpus.parts import Row
from recipes.corpus.storage import is_remote, split_address

SAMPLING_RATE = 16_000  # Hz, of cuts


class Named(io.BytesIO):
    """Encoded sound that messages call by its name."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


class Sources:
    """Opens the recordings of rows; neighbouring cuts of one file decode it once."""

    def __init__(self):
        self._last: tuple[str, np.ndarray] = ("", np.zeros(0, np.float32))

    def open(self, row: Row) -> str | Named:
        """The path of a local recording, else its encoded bytes.

        Raises:
            AudioError: the row has no path, or there is nothing at it.
        """
        if "path" not in row:
            raise AudioError(f"{row['id']}: the row has no path of a recording")
        if not is_cut(row):
            return _encoded(row["path"])
        import soundfile

        wave = io.BytesIO()
        soundfile.write(wave, self._cut(row), SAMPLING_RATE, format="WAV", subtype="FLOAT")
        return Named(wave.getvalue(), row["path"])

    def wave(self, row: Row) -> np.ndarray:
        """Float32 [samples] at 16 kHz. Raises AudioError as `open` does, and for what cannot be decoded."""
        from asr.audio.io import load

        return self._cut(row) if "path" in row and is_cut(row) else load(self.open(row))

    def _cut(self, row: Row) -> np.ndarray:
        from asr.audio.io import load

        path, start = row["path"], row.get("start", 0.0)
        if self._last[0] != path:
            self._last = (path, load(_encoded(path)))
        first = round(start * SAMPLING_RATE)
        last = first + round(row["seconds"] * SAMPLING_RATE) if row.get("seconds") else None
        cut = self._last[1][first:last]
        if not len(cut):
            raise AudioError(f"{path}: has {len(self._last[1]) / SAMPLING_RATE:.2f} s, none at {start} s")
        return cut


def is_cut(row: Row) -> bool:
    """Whether the row is a span of its recording: a table's `seconds` alone are no span."""
    return "start" in row and bool(row["start"] or row.get("seconds"))


def _encoded(path: str) -> str | Named:
    if not is_remote(path):
        return path
    fs, place = split_address(path)
    try:
        return Named(fs.cat_file(place), path)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except Exception as error:  # every store has exceptions of its own
        raise OSError(f"{path}: cannot be fetched ({error or type(error).__name__})") from error
