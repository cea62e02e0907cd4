"""The engine of L3-SE behind `enhance.Denoiser`: whole recordings at any rate and channel count, in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from asr.audio.io import resample
from enhance.engine import Progress
from enhance.l3se.system import L3SE


class WholeRecordings:
    """Speech is written anew between 0 and 8 kHz, so nothing of the input passes through.

    Args:
        system: the trained model.
        attenuation_limit: must be None.
        device: "cpu", "cuda" ...

    Raises:
        ValueError: an attenuation limit. It would mix the input with speech whose phase is another.
    """

    streams = False

    def __init__(self, system: L3SE, attenuation_limit: float | None = None, device: str = "cpu"):
        if attenuation_limit is not None:
            raise ValueError(
                f"attenuation limit is {attenuation_limit} dB; l3se writes new speech that cannot be mixed with its "
                "input, so leave the limit out"
            )
        self.system = system.to(device).eval()
        self.device = device

    @property
    def sampling_rate(self) -> int:
        return self.system.sampling_rate

    def stream(
        self, blocks: Iterable[np.ndarray], sampling_rate: int, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """The recording [samples, channels] in one piece; see `enhance.engine.Engine.stream`."""
        samples = np.concatenate(list(blocks))
        channels = []
        for channel in np.ascontiguousarray(samples.T, np.float32):
            channels.append(self._channel(channel, sampling_rate))
            if progress:
                progress(len(channel) / sampling_rate / samples.shape[1])
        yield np.stack(channels, 1)

    def _channel(self, wave: np.ndarray, rate: int) -> np.ndarray:
        low = torch.from_numpy(resample(wave, rate, self.sampling_rate)).to(self.device)
        enhanced = self.system.enhance(low[None])[0] if len(low) else low
        enhanced = resample(enhanced.cpu().numpy(), self.sampling_rate, rate)[: len(wave)]
        return np.pad(enhanced, (0, len(wave) - len(enhanced)))
