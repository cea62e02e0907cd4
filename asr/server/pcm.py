"""Raw samples as microphones and pipes deliver them."""

from __future__ import annotations

import numpy as np
import soxr

from asr.audio.errors import AudioError
from asr.audio.io import RATES, SAMPLING_RATE


class PCMStream:
    """Little-endian 16-bit samples in pieces of any size -> mono float32 at 16 kHz, full scale 1.

    Args:
        sampling_rate: of the samples in Hz.
        channels: interleaved; their mean is taken.

    Raises:
        AudioError: an impossible rate or number of channels.
    """

    def __init__(self, sampling_rate: int = SAMPLING_RATE, channels: int = 1):
        if not RATES[0] <= sampling_rate <= RATES[1]:
            raise AudioError(f"sampling rate {sampling_rate} Hz is outside {RATES[0]}..{RATES[1]} Hz")
        if not 1 <= channels <= 64:
            raise AudioError(f"{channels} channels: there must be 1 to 64")
        self.sampling_rate, self.channels = sampling_rate, channels
        self._rest = b""  # of a frame that is not whole yet
        resampled = sampling_rate != SAMPLING_RATE
        self._resampler = soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1, dtype="float32") if resampled else None

    def push(self, data: bytes, is_last: bool = False) -> np.ndarray:
        """The samples [samples] at 16 kHz that these bytes complete."""
        data = self._rest + data
        whole = len(data) // (2 * self.channels) * 2 * self.channels
        self._rest = data[whole:]
        frames = np.frombuffer(data[:whole], "<i2").reshape(-1, self.channels)
        mono = frames.mean(axis=1, dtype=np.float32) / 32768
        return mono if self._resampler is None else self._resampler.resample_chunk(mono, is_last)
