"""How a recording goes through an enhancer: an engine takes blocks at any rate and gives enhanced blocks.

`FrameByFrame` is the engine of enhancers that work on spectra. It works at 16 kHz on each channel by itself. What a
recording holds above 8 kHz the enhancer cannot see; it is kept and follows the gain that the enhancer gives to the
top of its band (6-8 kHz):

    output = up(enhanced) + gain * (input - up(down(input)))

The same term returns what the resampling filters cut off, so an enhancer that changes nothing returns the
recording as it was, at any rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from enhance.networks.enhancer import Enhancer
from enhance.networks.overlap_add import FRAMES_PER_STEP, OverlapAdd

TOP_BAND = 0.75  # the gain for what the enhancer cannot see is measured over the top quarter of its band
RESAMPLED_BLOCK = 1 << 17  # samples

Progress = Callable[[float], None]  # gets the seconds of audio in each block that is done


@runtime_checkable
class Engine(Protocol):
    """What `enhance.Denoiser` drives."""

    sampling_rate: int  # Hz, at which the model works
    streams: bool  # can also run live

    def stream(
        self, blocks: Iterable[np.ndarray], sampling_rate: int, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """Blocks [samples, channels] of one recording -> enhanced blocks, as many samples in total."""


class FrameByFrame:
    """The engine of `enhance.networks` and of the exported step, in constant memory.

    Args:
        enhancer: works on spectra.
        attenuation_limit: largest attenuation in dB; None for no limit.
        device: "cpu", "cuda" ...

    Raises:
        ValueError: a negative attenuation limit.
    """

    streams = True

    def __init__(self, enhancer: Enhancer, attenuation_limit: float | None = None, device: str = "cpu"):
        self.core = OverlapAdd(enhancer.fold().to(device), attenuation_limit)

    @property
    def sampling_rate(self) -> int:
        return self.core.enhancer.sampling_rate

    def stream(
        self, blocks: Iterable[np.ndarray], sampling_rate: int, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """See `Engine.stream`."""
        session = None
        for block in blocks:
            for start in range(0, len(block), RESAMPLED_BLOCK):
                piece = np.asarray(block[start : start + RESAMPLED_BLOCK], np.float32)
                session = session or _Session(self.core, sampling_rate, piece.shape[1])
                yield session.push(piece)
                if progress:
                    progress(len(piece) / sampling_rate)
        yield session.finish()


class _Session:
    """One recording on its way: resampled down, enhanced, resampled up, the upper band added."""

    def __init__(self, core: OverlapAdd, rate: int, channels: int):
        self.core, self.channels, self.state = core, channels, core.start(channels)
        self.down = _resampler(rate, core.enhancer.sampling_rate, channels)
        self.up = _resampler(core.enhancer.sampling_rate, rate, 3 * channels)
        empty = np.zeros((0, channels), np.float32)
        self.waiting = empty  # 16 kHz samples that do not fill a hop yet
        self.original = empty  # input samples whose output is not there yet
        self.ready = np.zeros((0, 3 * channels), np.float32)  # enhanced, plain and gain, at the input's rate
        self.lag = core.hop  # 16 kHz samples to drop at the start
        bandwidth = core.fft_size // 2 * min(1.0, rate / core.enhancer.sampling_rate)  # in bins
        self.top = slice(int(TOP_BAND * bandwidth), int(bandwidth) + 1)
        self.last_gain: Tensor | None = None

    def push(self, block: np.ndarray) -> np.ndarray:
        """Input [n, channels] -> the output that is ready [m, channels]."""
        self.original = np.concatenate([self.original, block])
        self._enhance(self.down(block))
        return self._output()

    def finish(self) -> np.ndarray:
        """The rest of the output."""
        low = self.down(np.zeros((0, self.channels), np.float32), last=True)
        fill = self.core.hop + -(len(self.waiting) + len(low)) % self.core.hop
        self._enhance(np.concatenate([low, np.zeros((fill, self.channels), np.float32)]))
        rest = self.up(np.zeros((0, 3 * self.channels), np.float32), last=True)
        self.ready = np.concatenate([self.ready, rest])
        missing = max(0, len(self.original) - len(self.ready))  # resampling rounds the length
        self.ready = np.pad(self.ready, ((0, missing), (0, 0)), "edge" if len(self.ready) else "constant")
        return self._output()

    def _enhance(self, low: np.ndarray) -> None:
        """Samples at 16 kHz [n, channels] -> `ready` grows by enhanced, plain and gain."""
        self.waiting = np.concatenate([self.waiting, low])
        step = FRAMES_PER_STEP * self.core.hop
        while len(self.waiting) >= self.core.hop:
            length = min(step, len(self.waiting) // self.core.hop * self.core.hop)
            block, self.waiting = np.split(self.waiting, [length])
            parts = self._step(torch.from_numpy(np.ascontiguousarray(block.T)).to(self.core.device))
            parts = parts[self.lag :] if self.lag < len(parts) else parts[:0]
            self.lag = max(0, self.lag - length)
            self.ready = np.concatenate([self.ready, self.up(parts)])

    @torch.inference_mode()
    def _step(self, block: Tensor) -> np.ndarray:
        """[channels, n * hop] -> [n * hop, 3 * channels], all three late by one hop."""
        history = self.state.history
        spectrum, self.state.history = self.core.analyse(block, history)
        enhanced, self.state.enhancer = self.core.enhance(spectrum, self.state.enhancer)
        output, self.state.tail = self.core.synthesise(enhanced, self.state.tail)
        plain = torch.cat([history, block], -1)[:, : block.shape[1]]
        gain = self._gain(spectrum, enhanced)
        return torch.cat([output, plain, gain]).T.contiguous().cpu().numpy()

    def _gain(self, spectrum: Tensor, enhanced: Tensor) -> Tensor:
        """Mean gain of the top band minus 1 [channels, n * hop], running linearly from frame to frame.

        Minus 1, since the resampler takes the recording to be surrounded by zeros.
        """
        energy, enhanced_energy = (s[:, :, self.top].square().sum((2, 3)) for s in (spectrum, enhanced))
        frames = ((enhanced_energy + 1e-12) / (energy + 1e-12)).sqrt().clamp(max=1.0)
        before = frames[:, :1] if self.last_gain is None else self.last_gain
        steps = torch.cat([before, frames], 1)
        self.last_gain = frames[:, -1:]
        ramp = torch.arange(self.core.hop, device=frames.device) / self.core.hop
        return (steps[:, :-1, None] * (1 - ramp) + steps[:, 1:, None] * ramp).flatten(1) - 1

    def _output(self) -> np.ndarray:
        count = min(len(self.ready), len(self.original))
        parts, self.ready = np.split(self.ready, [count])
        original, self.original = np.split(self.original, [count])
        enhanced, plain, gain = np.split(parts, 3, axis=1)
        return enhanced + (1 + gain) * (original - plain)


def _resampler(source: int, target: int, channels: int) -> Callable[..., np.ndarray]:
    """A function (block [n, channels], last=False) -> resampled block; its filter bridges the blocks."""
    if source == target:
        return lambda block, last=False: block
    import soxr

    stream = soxr.ResampleStream(source, target, channels, dtype="float32")
    return lambda block, last=False: stream.resample_chunk(np.ascontiguousarray(block), last).reshape(
        -1, channels
    )
