"""A network that learns to say what PESQ or DNSMOS would, so that an enhancer can be trained towards them.

The metrics themselves have no gradient. The discriminator D(clean, estimate) is trained to give the metric's score,
scaled to 0..1, and 1 for the clean signal; the enhancer is trained to make D say 1.

Source: MetricGAN (Fu et al., ICML 2019); the network follows CMGAN's (Cao et al., Interspeech 2022), narrower.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from enhance.metrics import PACKAGES, dnsmos, pesq, require

METRICS = ("pesq", "dnsmos")
WIDTHS = (8, 16, 32, 32)


class MetricDiscriminator(nn.Module):
    """Score 0..1 [batch] of two magnitudes [batch, frames, bins], the clean one first; compressed ones learn faster."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((2, *widths), widths, strict=False):
            layers += [
                spectral_norm(nn.Conv2d(before, after, 4, 2, 1, bias=False)),
                nn.InstanceNorm2d(after, affine=True),
                nn.PReLU(after),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            spectral_norm(nn.Linear(widths[-1], widths[-1])), nn.PReLU(), spectral_norm(nn.Linear(widths[-1], 1))
        )

    def forward(self, reference: Tensor, estimate: Tensor) -> Tensor:
        features = self.body(torch.stack((reference, estimate), 1)).mean((2, 3))
        return self.head(features)[:, 0].sigmoid()

    def losses(self, reference: Tensor, estimate: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """What the discriminator minimises, and what the enhancer does.

        Magnitudes are [batch, frames, bins], scores [batch] from 0 to 1, NaN where the metric is not defined. The
        first loss has no gradient for the estimate, the second none for the discriminator, so one backward pass over
        their sum trains both.
        """
        known = scores.isfinite()
        judged = self(reference, estimate.detach())
        own = (self(reference, reference) - 1).square().mean()
        if known.any():
            own = own + (judged - scores)[known].square().mean()
        still = {name: value.detach() for name, value in (*self.named_parameters(), *self.named_buffers())}
        towards = (functional_call(self, still, (reference, estimate)) - 1).square().mean()
        return own, towards


def check_metric(metric: str) -> None:
    """Raises ValueError: an unknown metric; ImportError: its package is not installed."""
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; a discriminator can learn {' or '.join(METRICS)}")
    require(f"metric {metric}", PACKAGES[metric])


def scaled_scores(metric: str, estimates: Tensor, references: Tensor) -> Tensor:
    """The metric of waveforms [batch, samples] at 16 kHz, scaled to 0..1 [batch]; NaN where it is not defined."""
    values = []
    for estimate, reference in zip(estimates.cpu().numpy(), references.cpu().numpy(), strict=True):
        value = pesq(estimate, reference) if metric == "pesq" else dnsmos(estimate).get("dnsmos_ovrl", np.nan)
        values.append((value - 1) / (3.64 if metric == "pesq" else 4))  # wide-band PESQ ends at 4.64, opinions at 5
    return torch.tensor(values, dtype=estimates.dtype, device=estimates.device).clamp(0, 1)
