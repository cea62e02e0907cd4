"""A denoiser for live audio: blocks of samples in, blocks of samples out.

Latency. A sample can be output once the last frame that contains it is complete. Frames are 32 ms long
(`fft_size`), so the algorithmic latency is 32 ms: 16 ms to fill a hop and 16 ms until the next frame ends.
"""

from __future__ import annotations

import numpy as np
import torch

from enhance.networks.adaptcrn import AdaptCRN
from enhance.networks.enhancer import Enhancer
from enhance.networks.overlap_add import OverlapAdd


def floating(samples: np.ndarray) -> np.ndarray:
    """Integer samples to full scale 1; floating-point ones as float32."""
    if samples.dtype.kind in "iu":
        limits = np.iinfo(samples.dtype)
        middle = (int(limits.max) + int(limits.min) + 1) / 2  # unsigned samples rest at half their range
        return ((samples.astype(np.float64) - middle) / (limits.max - middle + 1)).astype(np.float32)
    return samples.astype(np.float32)


class StreamingDenoiser:
    """Live denoising at 16 kHz in blocks of any size: n samples in, n samples out, `latency` samples late.

        denoiser = StreamingDenoiser()
        while block := microphone():
            speaker(denoiser.process(block))

    The first `latency` output samples are zeros; `flush` returns the last ones. Apart from that shift the
    output is what `Enhancer.enhance` gives for the whole waveform.

    Args:
        enhancer: the compact AdaptCRN of the package when None.
        channels: enhanced independently.
        attenuation_limit: largest attenuation in dB; None for no limit.
    """

    def __init__(
        self, enhancer: Enhancer | None = None, channels: int = 1, attenuation_limit: float | None = None
    ):
        if enhancer is None:
            enhancer = AdaptCRN.from_pretrained(None)
        self.core = OverlapAdd(enhancer.fold(), attenuation_limit)
        self.channels = channels
        self.reset()

    @property
    def sampling_rate(self) -> int:
        return self.core.enhancer.sampling_rate

    @property
    def latency(self) -> int:
        """Samples between a sound going in and coming out: the frame length, 512 (32 ms)."""
        return self.core.fft_size

    def reset(self) -> None:
        """Forget the past, to start another recording."""
        self._state = self.core.start(self.channels)
        self._waiting = np.zeros((self.channels, 0), np.float32)
        self._ready = np.zeros((self.channels, self.latency - self.core.hop), np.float32)

    def process(self, block: np.ndarray) -> np.ndarray:
        """Samples [n] or [channels, n] -> as many enhanced samples, float32 full scale 1, same shape.

        Integers, such as the int16 of sound cards, are scaled to full scale 1.

        Raises:
            ValueError: another number of channels than the denoiser was made for, or NaN or infinity.
        """
        samples = np.atleast_2d(floating(np.asarray(block)))
        if samples.shape[0] != self.channels:
            raise ValueError(
                f"the block has {samples.shape[0]} channels; this denoiser was made for {self.channels}"
            )
        if not np.isfinite(samples).all():
            raise ValueError(
                "the block holds NaN or infinite samples, which would spoil everything after them"
            )
        self._waiting = np.concatenate([self._waiting, samples], 1)
        whole = self._waiting.shape[1] // self.core.hop * self.core.hop
        if whole:
            ready, self._state = self.core.step(torch.from_numpy(self._waiting[:, :whole]), self._state)
            self._waiting = self._waiting[:, whole:]
            self._ready = np.concatenate([self._ready, ready.numpy()], 1)
        output, self._ready = np.split(self._ready, [samples.shape[1]], 1)
        return output.reshape(np.shape(block))

    def flush(self) -> np.ndarray:
        """The last `latency` samples [latency] or [channels, latency]; the denoiser starts afresh after it."""
        output = self.process(np.zeros((self.channels, self.latency), np.float32))
        self.reset()
        return output[0] if self.channels == 1 else output
