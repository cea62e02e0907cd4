"""Losses that train the codec's decoder: log-mel spectra at seven scales and two families of discriminators.

Sources: multi-scale mel loss and multi-band STFT discriminator of DAC (Kumar et al. 2023), multi-period
discriminator of HiFi-GAN (Kong et al. 2020), least-squares GAN (Mao et al. 2017).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm
from torchaudio.functional import melscale_fbanks

SAMPLING_RATE = 16_000
MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 120), (2048, 160))  # window, bands
MEL_FLOOR = 1e-5
SLOPE = 0.1

Features = list[Tensor]  # of the layers of one discriminator; the last one is its score


class MelLoss(nn.Module):
    """L1 distance of log10 mel magnitudes, summed over seven window lengths (2 to 128 ms)."""

    def __init__(self):
        super().__init__()
        for size, bands in MEL_SCALES:
            # Narrow windows have bands without a bin; those are always at the floor and cost nothing.
            filters = melscale_fbanks(size // 2 + 1, 0.0, SAMPLING_RATE / 2, bands, SAMPLING_RATE, "slaney", "slaney")
            filters = filters[:, filters.sum(0) > 0]
            self.register_buffer(f"filters_{size}", filters / filters.sum(0), persistent=False)
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Waves [batch, samples] -> scalar."""
        with torch.autocast(estimate.device.type, enabled=False):
            distances = [
                (self._log_mel(estimate.float(), size) - self._log_mel(reference.float(), size)).abs().mean()
                for size, _ in MEL_SCALES
            ]
        return sum(distances)

    def _log_mel(self, wave: Tensor, size: int) -> Tensor:
        window = getattr(self, f"window_{size}")
        spectrum = torch.stft(wave, size, size // 4, window=window, pad_mode="constant", return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = (power + 1e-12).sqrt().transpose(1, 2) @ getattr(self, f"filters_{size}")
        return mel.clamp(min=MEL_FLOOR).log10()


class PeriodDiscriminator(nn.Module):
    """Looks at a wave folded to columns of `period` samples."""

    def __init__(self, period: int, channels: int):
        super().__init__()
        self.period = period
        sizes = [1, channels, 4 * channels, 8 * channels, 8 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0))) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.score = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> Features:
        wave = F.pad(wave, (0, -wave.shape[-1] % self.period))
        return _features(wave.unflatten(-1, (-1, self.period)).unsqueeze(1), self.layers, self.score)


class BandDiscriminator(nn.Module):
    """Looks at a complex spectrum, with filters of their own for each of five bands."""

    BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)

    def __init__(self, window: int, channels: int):
        super().__init__()
        self.size = window
        bins = window // 2 + 1
        self.edges = [int(edge * bins) for edge in self.BANDS]
        self.bands = nn.ModuleList(
            nn.ModuleList(
                [
                    weight_norm(nn.Conv2d(2, channels, (3, 9), padding=(1, 4))),
                    weight_norm(nn.Conv2d(channels, channels, (3, 9), (1, 2), (1, 4))),
                    weight_norm(nn.Conv2d(channels, channels, (3, 9), (1, 2), (1, 4))),
                    weight_norm(nn.Conv2d(channels, channels, 3, padding=1)),
                ]
            )
            for _ in self.edges[1:]
        )
        self.score = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    def forward(self, wave: Tensor) -> Features:
        with torch.autocast(wave.device.type, enabled=False):
            spectrum = torch.stft(wave.float(), self.size, self.size // 4, window=self.window, return_complex=True)
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # [batch, 2, frames, bins]
        features, tops = [], []
        for layers, low, high in zip(self.bands, self.edges, self.edges[1:], strict=False):
            band = _features(x[..., low:high], layers)
            features += band
            tops.append(band[-1])
        return [*features, self.score(torch.cat(tops, -1))]


def _features(x: Tensor, layers: nn.ModuleList, score: nn.Module | None = None) -> Features:
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), SLOPE)
        features.append(x)
    return features if score is None else [*features, score(x)]


class Discriminators(nn.Module):
    """All of them: wave [batch, samples] -> features of each.

    Args:
        channels: width of the first layers; 32 as published.
        periods: of the multi-period discriminator, in samples.
        windows: of the STFT discriminator, in samples.
    """

    def __init__(
        self,
        channels: int = 32,
        periods: list[int] = (2, 3, 5, 7, 11),
        windows: list[int] = (2048, 1024, 512),
    ):
        super().__init__()
        self.members = nn.ModuleList(
            [*(PeriodDiscriminator(p, channels) for p in periods), *(BandDiscriminator(w, channels) for w in windows)]
        )

    def forward(self, wave: Tensor) -> list[Features]:
        return [member(wave) for member in self.members]

    def losses(self, estimate: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the discriminators minimise, and the decoder's adversarial and feature-matching losses.

        Waves are [batch, samples]. The first has no gradient for the estimate, the others none for the
        discriminators, so one backward pass over their sum trains both sides.
        """
        real, fake = self(reference), self(estimate.detach())
        own = sum((1 - r[-1]).square().mean() + f[-1].square().mean() for r, f in zip(real, fake, strict=True))
        still = {name: value.detach() for name, value in (*self.named_parameters(), *self.named_buffers())}
        judged = functional_call(self, still, (estimate,))
        adversarial = sum((1 - f[-1]).square().mean() for f in judged)
        matching = sum(
            (a.detach() - b).abs().mean()
            for r, f in zip(real, judged, strict=True)
            for a, b in zip(r[:-1], f[:-1], strict=True)
        )
        count = len(self.members)
        return own / count, adversarial / count, matching / sum(len(r) - 1 for r in real)
