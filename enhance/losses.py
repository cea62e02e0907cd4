"""Training loss of AdaptCRN and GTCRN: compressed spectra plus scale-invariant signal-to-noise ratio.

Source: arXiv 2502.14224, Section V; the same loss as GTCRN (Rong et al., ICASSP 2024, Section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from enhance.networks.bands import compress, magnitude

SI_SNR_WEIGHT, MAGNITUDE_WEIGHT, COMPLEX_WEIGHT = 0.01, 0.7, 0.3
COMPRESSION = 0.3  # exponent of the magnitude


def si_snr(estimate: Tensor, reference: Tensor, floor: float = 1e-8) -> Tensor:
    """Scale-invariant signal-to-noise ratio in dB of waveforms [..., samples] -> [...] (Le Roux et al. 2019).

    Both are made zero-mean first. `floor` is the energy added to the error, so that a perfect or a silent
    reference gives a finite value.
    """
    estimate = estimate - estimate.mean(-1, keepdim=True)
    reference = reference - reference.mean(-1, keepdim=True)
    energy = reference.square().sum(-1, keepdim=True)
    target = (estimate * reference).sum(-1, keepdim=True) / (energy + floor) * reference
    error = (estimate - target).square().sum(-1)
    return 10 * ((target.square().sum(-1) + floor) / (error + floor)).log10()


def enhancement_loss(
    estimate: Tensor, reference: Tensor, estimate_wave: Tensor, reference_wave: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a batch and its parts (unweighted).

    Args:
        estimate, reference: spectra [B, T, bins, 2].
        estimate_wave, reference_wave: the waveforms [B, samples] they belong to.
    """
    parts = {
        "si_snr": si_snr(estimate_wave, reference_wave).mean(),
        "magnitude": _squared(magnitude(estimate) ** COMPRESSION - magnitude(reference) ** COMPRESSION),
        # summed over real and imaginary part, hence twice the mean over both
        "complex": 2 * _squared(compress(estimate, COMPRESSION) - compress(reference, COMPRESSION)),
    }
    loss = -SI_SNR_WEIGHT * parts["si_snr"] / 10  # log10 of the ratio is a tenth of its dB
    return loss + MAGNITUDE_WEIGHT * parts["magnitude"] + COMPLEX_WEIGHT * parts["complex"], parts


def _squared(difference: Tensor) -> Tensor:
    return torch.mean(difference.square())
