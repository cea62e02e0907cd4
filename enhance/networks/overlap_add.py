"""Overlap-add around a network: from blocks of samples to spectra, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]  # of a network between two chunks; a missing entry is the start of an utterance
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


class SpectrumStep(Protocol):
    """What overlap-add needs of a network, `enhance.networks.enhancer.Enhancer` or the exported step."""

    fft_size: int  # samples
    hop: int  # samples
    device: torch.device

    def __call__(self, spectrum: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Spectrum [B, T, bins, 2] and the state before it -> enhanced spectrum of that shape, the state after."""


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

    def __init__(self, enhancer: SpectrumStep, attenuation_limit: float | None = None):
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
