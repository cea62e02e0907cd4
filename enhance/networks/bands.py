"""Spectral features: ERB bands and sub-band neighbours, shared by AdaptCRN and GTCRN.

The low bins are kept as they are; the bins above are merged into bands that are evenly spaced on the ERB
scale (Glasberg & Moore 1990), after GTCRN (Rong et al., ICASSP 2024, Section 2).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _erb(frequency: np.ndarray) -> np.ndarray:
    return 21.4 * np.log10(0.00437 * frequency + 1)


def _hertz(erb: np.ndarray) -> np.ndarray:
    return (10 ** (erb / 21.4) - 1) / 0.00437


def erb_matrix(low_bins: int, bands: int, bins: int, sampling_rate: int) -> Tensor:
    """Triangular weights [bins - low_bins, bands]; each bin's weights sum to 1."""
    spacing = sampling_rate / 2 / (bins - 1)
    edges = np.array([low_bins, bins - 1]) * spacing
    centres = _hertz(np.linspace(*_erb(edges), bands)) / spacing
    position = np.interp(np.arange(low_bins, bins), centres, np.arange(bands))
    return torch.from_numpy(np.maximum(0, 1 - abs(position[:, None] - np.arange(bands)))).float()


class ErbBands(nn.Module):
    """Merge high bins into ERB bands, and spread band values back over bins with the transposed matrix."""

    def __init__(self, low_bins: int = 65, bands: int = 64, bins: int = 257, sampling_rate: int = 16_000):
        super().__init__()
        self.low_bins = low_bins
        self.register_buffer("matrix", erb_matrix(low_bins, bands, bins, sampling_rate), persistent=False)

    def merge(self, x: Tensor) -> Tensor:
        """[..., bins] -> [..., low_bins + bands]."""
        low, high = x[..., : self.low_bins], x[..., self.low_bins :]
        return torch.cat([low, high @ self.matrix], -1)

    def spread(self, x: Tensor) -> Tensor:
        """[..., low_bins + bands] -> [..., bins]; a constant stays that constant."""
        low, high = x[..., : self.low_bins], x[..., self.low_bins :]
        return torch.cat([low, high @ self.matrix.T], -1)


def subbands(x: Tensor) -> Tensor:
    """Each band next to its two neighbours: [B, C, T, F] -> [B, 3 C, T, F], zeros beyond the edges."""
    padded = F.pad(x, (1, 1))
    return torch.cat([padded[..., :-2], x, padded[..., 2:]], 1)


def compress(spectrum: Tensor, power: float, floor: float = 1e-12) -> Tensor:
    """X / |X|^(1 - power) of a spectrum [..., 2] (real and imaginary part); zero stays zero.

    The floor is a limit, not a summand: exporters take so small a summand for nothing, and silence becomes NaN.
    """
    energy = spectrum.square().sum(-1, keepdim=True)
    return spectrum * energy.clamp(min=floor) ** ((power - 1) / 2)


def magnitude(spectrum: Tensor, floor: float = 1e-12) -> Tensor:
    """|X| [...] of a spectrum [..., 2], with a finite gradient at zero."""
    return (spectrum.square().sum(-1) + floor).sqrt()
