"""Raw samples as microphones and pipes deliver them."""

from __future__ import annotations

import numpy as np
import soxr

from asr.audio.errors import AudioError
from asr.audio.io import RATES, SAMPLING_RATE

FORMATS = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}


class PCMStream:
    """Little-endian samples in pieces of any size -> mono float32 at 16 kHz, full scale 1.

    Args:
        sampling_rate: of the samples in Hz.
        channels: interleaved; their mean is taken.
        sample_format: a key of `FORMATS`.

    Raises:
        AudioError: an impossible rate or number of channels.
    """

    def __init__(self, sampling_rate: int = SAMPLING_RATE, channels: int = 1, sample_format: str = "s16le"):
        if not RATES[0] <= sampling_rate <= RATES[1]:
            raise AudioError(f"sampling rate {sampling_rate} Hz is outside {RATES[0]}..{RATES[1]} Hz")
        if not 1 <= channels <= 64:
            raise AudioError(f"{channels} channels: there must be 1 to 64")
        self.sampling_rate, self.channels, self.dtype = sampling_rate, channels, FORMATS[sample_format]
        self._rest = b""  # of a frame that is not whole yet
        resampled = sampling_rate != SAMPLING_RATE
        self._resampler = soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1, dtype="float32") if resampled else None

    def push(self, data: bytes, is_last: bool = False) -> np.ndarray:
        """The samples [samples] at 16 kHz that these bytes complete."""
        data = self._rest + data
        size = self.dtype.itemsize * self.channels
        whole = len(data) // size * size
        self._rest = data[whole:]
        frames = np.frombuffer(data[:whole], self.dtype).reshape(-1, self.channels)
        mono = frames.mean(axis=1, dtype=np.float32) / (32768 if self.dtype.kind == "i" else 1)
        return mono if self._resampler is None else self._resampler.resample_chunk(mono, is_last)
