"""Features shared by every system: log-mel for recognition, STFT and its inverse for enhancement.

Shapes follow the house rule [batch, time, feature]; frequencies in Hz, times in seconds.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from asr.audio.io import SAMPLING_RATE

FRAME_HOP = 160  # samples: 10 ms
FRAME_LENGTH = 400  # samples: 25 ms
FFT_SIZE = 512
LOG_FLOOR = 1e-6  # below the noise of 16-bit audio, so digital silence stays finite
WHISPER_RANGE = 8.0  # powers of ten below the loudest value that Whisper's features keep


@lru_cache(maxsize=64)
def _mel_filters(num_mels: int, warp: float) -> Tensor:
    """Slaney mel filterbank [FFT_SIZE // 2 + 1, num_mels], its frequency axis stretched by `warp`.

    Stretching the axis imitates a longer or shorter vocal tract (VTLP, Jaitly & Hinton 2013): the energy
    that a speaker puts at f is read as if it stood at f * warp.
    """
    fmax = min(7600.0 * warp, SAMPLING_RATE / 2)
    return melscale_fbanks(FFT_SIZE // 2 + 1, 40.0 * warp, fmax, num_mels, SAMPLING_RATE, "slaney", "htk")


@lru_cache(maxsize=8)
def _window(kind: str, length: int) -> Tensor:
    window = torch.hann_window(length)
    return window.sqrt() if kind == "sqrt_hann" else window


def log_mel(wave: Tensor, num_mels: int = 80, warp: float = 1.0) -> Tensor:
    """Natural log of the mel power spectrum.

    Args:
        wave: [..., samples] at 16 kHz, full scale 1.
        num_mels: number of mel bands between 40 and 7600 Hz.
        warp: vocal-tract warp of the filterbank; 1 leaves the frequencies as they are.

    Returns:
        [..., frames, num_mels] with frames = samples // 160 + 1 (one every 10 ms).
    """
    spectrum = torch.stft(
        wave,
        FFT_SIZE,
        FRAME_HOP,
        FRAME_LENGTH,
        _window("hann", FRAME_LENGTH).to(wave.device),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power = spectrum.real.square() + spectrum.imag.square()
    mel = power.transpose(-1, -2) @ _mel_filters(num_mels, round(warp, 2)).to(wave.device)
    return (mel + LOG_FLOOR).log()


@lru_cache(maxsize=4)
def _whisper_filters(num_mels: int) -> Tensor:
    return melscale_fbanks(201, 0.0, 8000.0, num_mels, SAMPLING_RATE, "slaney", "slaney")


def whisper_log_mel(wave: Tensor, num_mels: int = 80) -> Tensor:
    """Whisper's features (Radford et al. 2022, arXiv 2212.04356, Sec. 2.2) of a wave at its own length.

    Args:
        wave: [samples] at 16 kHz, full scale 1; or waves of one length, [batch, samples].
        num_mels: mel bands between 0 and 8000 Hz.

    Returns:
        [samples // 160, num_mels] of each; its loudest value sets the floor 8 powers of ten below.
    """
    window = _window("hann", 400).to(wave.device)
    pad = "reflect" if wave.shape[-1] > 200 else "constant"  # there is too little to reflect
    spectrum = torch.stft(wave, 400, 160, 400, window, center=True, pad_mode=pad, return_complex=True)
    spectrum = spectrum[..., :-1] if spectrum.shape[-1] > 1 else spectrum
    power = spectrum.real.square() + spectrum.imag.square()
    mel = (power.transpose(-1, -2) @ _whisper_filters(num_mels).to(wave.device)).clamp(min=1e-10).log10()
    return (torch.maximum(mel, mel.amax((-2, -1), keepdim=True) - WHISPER_RANGE) + 4.0) / 4.0


def normalise(features: Tensor) -> Tensor:
    """Zero mean and unit deviation per mel band over the time axis of one utterance [time, feature].

    Removes the channel (microphone, codec, level), which differs more between corpora than speech does.
    """
    mean = features.mean(-2, keepdim=True)
    deviation = features.std(-2, keepdim=True, unbiased=False)
    return (features - mean) / (deviation + 0.1)


class LogMel(nn.Module):
    """Normalised log-mel features of a padded batch of waveforms."""

    def __init__(self, num_mels: int = 80):
        super().__init__()
        self.num_mels = num_mels

    @torch.no_grad()
    def forward(self, waves: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Waves of any lengths [samples] -> padded features [batch, frames, num_mels], lengths [batch]."""
        features = [normalise(log_mel(wave, self.num_mels)) for wave in waves]
        lengths = torch.tensor([len(f) for f in features])
        return nn.utils.rnn.pad_sequence(features, batch_first=True), lengths


def stft(wave: Tensor, fft_size: int = 512, hop: int = 256) -> Tensor:
    """Complex spectrum [batch, frames, fft_size // 2 + 1] of wave [batch, samples], square-root Hann window.

    The same window at synthesis makes overlap-add at 50 % exact, so `istft(stft(x))` returns x.
    """
    window = _window("sqrt_hann", fft_size).to(wave.device)
    spectrum = torch.stft(wave, fft_size, hop, window=window, center=True, return_complex=True)
    return spectrum.transpose(-1, -2)


def istft(spectrum: Tensor, length: int | None = None, fft_size: int = 512, hop: int = 256) -> Tensor:
    """Waveform [batch, samples] of a complex spectrum [batch, frames, bins]; the inverse of `stft`."""
    window = _window("sqrt_hann", fft_size).to(spectrum.device)
    return torch.istft(spectrum.transpose(-1, -2), fft_size, hop, window=window, center=True, length=length)
