"""From blocks of samples to blocks of samples: overlap-add around an enhancer, and a denoiser for live audio.

Latency. A sample can be output once the last frame that contains it is complete. Frames are 32 ms long
(`fft_size`), so the algorithmic latency is 32 ms: 16 ms to fill a hop and 16 ms until the next frame ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from enhance.enhancer import Enhancer, State

FRAMES_PER_STEP = 512  # about 8 s: bounds the memory of long waveforms


@dataclass
class StreamState:
    """What one block hands to the next.

    history: the last hop of input samples [batch, hop].
    tail: the second half of the last output frame [batch, hop].
    enhancer: the network's own state.
    """

    history: Tensor
    tail: Tensor
    enhancer: State = field(default_factory=dict)


class OverlapAdd:
    """Square-root-Hann analysis and synthesis with 50 % overlap around an enhancer.

    The output lags the input by one hop, since the last hop still waits for the next frame.

    Args:
        enhancer: works on spectra [batch, frames, bins, 2].
        attenuation_limit: largest attenuation in dB; None for no limit. A part of the input at that level is
            mixed into the output.

    Raises:
        ValueError: a negative attenuation limit.
    """

    def __init__(self, enhancer: Enhancer, attenuation_limit: float | None = None):
        if attenuation_limit is not None and not attenuation_limit >= 0:
            raise ValueError(f"attenuation limit is {attenuation_limit} dB; it must be 0 (no change) or more")
        self.enhancer, self.hop, self.fft_size = enhancer, enhancer.hop, enhancer.fft_size
        self.kept = 0.0 if attenuation_limit is None else 10 ** (-attenuation_limit / 20)
        self.device = enhancer.device
        self.window = torch.hann_window(self.fft_size, device=self.device).sqrt()

    def start(self, batch: int = 1) -> StreamState:
        zeros = torch.zeros(batch, self.hop, device=self.device)
        return StreamState(zeros, zeros.clone())

    @torch.inference_mode()
    def step(self, block: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Block [batch, n * hop] and the state before it -> output block of that shape, the state after it."""
        spectrum, history = self.analyse(block, state.history)
        enhanced, inner = self.enhance(spectrum, state.enhancer)
        output, tail = self.synthesise(enhanced, state.tail)
        return output, StreamState(history, tail, inner)

    def analyse(self, block: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Block [batch, n * hop] -> spectrum [batch, n, bins, 2], history for the next block."""
        samples = torch.cat([history, block], -1)
        frames = samples.unfold(-1, self.fft_size, self.hop) * self.window
        return torch.view_as_real(torch.fft.rfft(frames)), samples[:, -self.hop :]

    def enhance(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        enhanced, state = self.enhancer(spectrum, state)
        if self.kept:
            enhanced = self.kept * spectrum + (1 - self.kept) * enhanced
        return enhanced, state

    def synthesise(self, spectrum: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrum [batch, n, bins, 2] -> output block [batch, n * hop], tail for the next block."""
        frames = torch.fft.irfft(torch.view_as_complex(spectrum.contiguous())) * self.window
        first, second = frames.split(self.hop, -1)
        output = first + torch.cat([tail[:, None], second[:, :-1]], 1)
        return output.flatten(1), second[:, -1]

    def whole(self, waveform: Tensor) -> Tensor:
        """Waveform [batch, samples] -> enhanced waveform of that shape, the lag taken out."""
        batch, length = waveform.shape
        padded = torch.nn.functional.pad(waveform, (0, self.hop + -length % self.hop))
        state, outputs = self.start(batch), []
        for block in padded.split(FRAMES_PER_STEP * self.hop, -1):
            output, state = self.step(block, state)
            outputs.append(output)
        return torch.cat(outputs, -1)[:, self.hop :][:, :length]


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
            from enhance.networks.adaptcrn import AdaptCRN

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
        """Samples [n] or [channels, n], full scale 1 -> as many enhanced samples, same shape.

        Raises:
            ValueError: another number of channels than the denoiser was made for, or NaN or infinity.
        """
        samples = np.atleast_2d(np.asarray(block, np.float32))
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
