"""The compiled loops of `kernels.frame_norm`: some frames at a time, which stay in the cache from pass to pass."""

import numpy as np
import torch
from torch import Tensor

from kernels.compiled import array, compiled, in_threads

FRAMES = 32  # a channel of them is long enough to be fetched ahead, all channels fit the second-level cache


@compiled
def _normalise(x, weight, bias, eps, y, energy, mean, inverse, first, last):
    """Utterances first to last."""
    _, channels, frames, bins = x.shape
    size = x.dtype.type(channels * bins)
    total, spread = np.empty(FRAMES, x.dtype), np.empty(FRAMES, x.dtype)
    for n in range(first, last):
        for start in range(0, frames, FRAMES):
            count = min(FRAMES, frames - start)
            for r in range(count):
                total[r] = spread[r] = 0
            for c in range(channels):
                for r in range(count):
                    s = x.dtype.type(0)
                    for f in range(bins):
                        s += x[n, c, start + r, f]
                    total[r] += s
            for r in range(count):
                total[r] /= size
            for c in range(channels):
                for r in range(count):
                    s = x.dtype.type(0)
                    for f in range(bins):
                        distance = x[n, c, start + r, f] - total[r]
                        s += distance * distance
                    spread[r] += s
            for r in range(count):
                mean[n, start + r], inverse[n, start + r] = total[r], 1 / np.sqrt(spread[r] / size + eps)
            for c in range(channels):
                for r in range(count):
                    t, s = start + r, x.dtype.type(0)
                    for f in range(bins):
                        value = (x[n, c, t, f] - mean[n, t]) * inverse[n, t] * weight[c, f] + bias[c, f]
                        y[n, c, t, f] = value
                        s += value * value
                    energy[n, t, c] = s / x.dtype.type(bins)


@compiled
def _differentiate(dy, d_energy, x, mean, inverse, weight, bias, dx, d_weight, d_bias, first, last):
    """dx of utterances first to last; add to d_weight and d_bias."""
    _, channels, frames, bins = x.shape
    size, twice = x.dtype.type(channels * bins), x.dtype.type(2) / x.dtype.type(bins)
    level, slope = np.empty(FRAMES, x.dtype), np.empty(FRAMES, x.dtype)
    for n in range(first, last):
        for start in range(0, frames, FRAMES):
            count = min(FRAMES, frames - start)
            for r in range(count):
                level[r] = slope[r] = 0
            for c in range(channels):
                for r in range(count):
                    t, s0, s1 = start + r, x.dtype.type(0), x.dtype.type(0)
                    of_energy = d_energy[n, t, c] * twice
                    for f in range(bins):
                        unit = (x[n, c, t, f] - mean[n, t]) * inverse[n, t]
                        d = dy[n, c, t, f] + of_energy * (unit * weight[c, f] + bias[c, f])
                        d_weight[c, f] += d * unit
                        d_bias[c, f] += d
                        dx[n, c, t, f] = d * weight[c, f]
                        s0 += d * weight[c, f]
                        s1 += d * weight[c, f] * unit
                    level[r] += s0
                    slope[r] += s1
            for c in range(channels):
                for r in range(count):
                    t, s0, s1 = start + r, level[r] / size, slope[r] / size
                    for f in range(bins):
                        unit = (x[n, c, t, f] - mean[n, t]) * inverse[n, t]
                        dx[n, c, t, f] = inverse[n, t] * (dx[n, c, t, f] - s0 - unit * s1)


# On tensors; the arguments are those of the operators of `kernels.frame_norm`.


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, energy, and the mean and 1 / deviation of each frame [B, T]."""
    batch, channels, frames, _ = x.shape
    y, energy = (torch.empty(shape, dtype=x.dtype) for shape in (x.shape, (batch, frames, channels)))
    mean, inverse = (torch.empty(batch, frames, dtype=x.dtype) for _ in range(2))
    inputs, outputs = [array(t) for t in (x, weight, bias)], [array(t) for t in (y, energy, mean, inverse)]
    in_threads(lambda first, last: _normalise(*inputs, eps, *outputs, first, last), batch)
    return y, energy, mean, inverse


def gradients(
    dy: Tensor, d_energy: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    dx = torch.empty(x.shape, dtype=x.dtype)
    arrays = [array(tensor) for tensor in (dy, d_energy, x, mean, inverse, weight, bias, dx)]

    def share(first: int, last: int) -> tuple[Tensor, Tensor]:
        sums = torch.zeros_like(weight), torch.zeros_like(bias)
        _differentiate(*arrays, *map(array, sums), first, last)
        return sums

    shares = in_threads(share, len(x))
    return dx, *(torch.stack(sums).sum(0) for sums in zip(*shares, strict=True))
