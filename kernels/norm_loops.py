"""The compiled loops of `kernels.norm`: a channel at a time, whose numbers stay in the cache from pass to pass.

Tensors are [B, C, T, F], gates [B, C, T]; without a gate a clip of a channel is one frame, T = 1.
"""

import numpy as np
from torch import Tensor

from kernels.compiled import array, compiled, in_threads


@compiled
def _moments(x, mean, variance, first, last):
    """Mean and variance of channels first to last: of each clip around its own mean, then of all clips together."""
    for c in range(first, last):
        count, centre, squares = 0.0, 0.0, 0.0
        for b in range(x.shape[0]):
            total = x.dtype.type(0)
            for t in range(x.shape[2]):
                for f in range(x.shape[3]):
                    total += x[b, c, t, f]
            size = x.shape[2] * x.shape[3]
            own = total / x.dtype.type(size)
            spread = x.dtype.type(0)
            for t in range(x.shape[2]):
                for f in range(x.shape[3]):
                    distance = x[b, c, t, f] - own
                    spread += distance * distance
            step = np.float64(own) - centre
            squares += np.float64(spread) + step * step * count * size / (count + size)
            centre += step * size / (count + size)
            count += size
        mean[c], variance[c] = centre, squares / count


@compiled
def _apply(x, scale, shift, slope, gate, y, first, last):
    """y = gate prelu(scale x + shift)."""
    for c in range(first, last):
        a, b, down = scale[c], shift[c], slope[c]
        for n in range(x.shape[0]):
            for t in range(x.shape[2]):
                up, low = gate[n, c, t], gate[n, c, t] * down
                for f in range(x.shape[3]):
                    value = a * x[n, c, t, f] + b
                    y[n, c, t, f] = value * (up if value > 0 else low)


@compiled
def _differentiate(dy, x, mean, inverse, scale, shift, slope, gate, dx, d_gate, sums, first, last):
    """dx, d_gate and the gradients of scale's factor, shift and slope as sums [C, 3]; inverse is 1 / deviation."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for c in range(first, last):
        a, b, down = scale[c], shift[c], slope[c]
        of_scale, of_shift, of_slope = 0.0, 0.0, 0.0
        for n in range(x.shape[0]):
            for t in range(x.shape[2]):
                up = gate[n, c, t]
                s0 = s1 = s2 = s3 = zero
                for f in range(x.shape[3]):
                    value, d = a * x[n, c, t, f] + b, dy[n, c, t, f]
                    below = min(value, zero) * d
                    factor = d * (one if value > 0 else down)
                    s0 += factor
                    s1 += factor * (x[n, c, t, f] - mean[c])
                    s2 += below
                    s3 += factor * value
                of_shift += np.float64(s0 * up)
                of_scale += np.float64(s1 * up * inverse[c])
                of_slope += np.float64(s2 * up)
                d_gate[n, c, t] = s3
        sums[c, 0], sums[c, 1], sums[c, 2] = of_scale, of_shift, of_slope
        size = x.shape[0] * x.shape[2] * x.shape[3]
        along = x.dtype.type(of_scale / size) * inverse[c]
        constant = x.dtype.type(of_shift / size)
        for n in range(x.shape[0]):
            for t in range(x.shape[2]):
                up, low = gate[n, c, t], gate[n, c, t] * down
                for f in range(x.shape[3]):
                    value = a * x[n, c, t, f] + b
                    d = dy[n, c, t, f] * (up if value > 0 else low)
                    dx[n, c, t, f] = a * (d - constant - along * (x[n, c, t, f] - mean[c]))


# On tensors; the arguments are those of the operators of `kernels.norm`.


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, gate: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and variance."""
    shape, (x, gate) = x.shape, _frames(x, gate)
    y, mean, variance = x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)
    channels = x.shape[1]
    moments = [array(tensor) for tensor in (x, mean, variance)]
    in_threads(lambda first, last: _moments(*moments, first, last), channels)
    scale, shift, _ = _affine(weight, bias, mean, variance, eps)
    arrays = [array(tensor) for tensor in (x, scale, shift, slope, gate, y)]
    in_threads(lambda first, last: _apply(*arrays, first, last), channels)
    return y.view(shape), mean, variance


def gradients(
    dy: Tensor, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, slope: Tensor,
    gate: Tensor | None, eps: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of x, weight, bias, slope and gate."""
    shape = x.shape
    (x, gate), (dy, _) = _frames(x, gate), _frames(dy, gate)
    scale, shift, inverse = _affine(weight, bias, mean, variance, eps)
    # new_empty, not empty_like: that would repeat the strides of a gate that is a slice, and `array` copy it.
    dx, d_gate, sums = (x.new_empty(shape) for shape in (x.shape, gate.shape, (x.shape[1], 3)))
    arrays = [
        array(tensor) for tensor in (dy, x, mean, inverse, scale, shift, slope, gate, dx, d_gate, sums)
    ]
    in_threads(lambda first, last: _differentiate(*arrays, first, last), x.shape[1])
    return dx.view(shape), *(column.clone() for column in sums.unbind(1)), d_gate


def _frames(x: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    """x [B, C, T, F] and a gate [B, C, T] for it."""
    if gate is None:
        return x.reshape(*x.shape[:2], 1, -1), x.new_ones(*x.shape[:2], 1)
    return x, gate


def _affine(weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and shift of each channel, and 1 / its deviation."""
    inverse = (variance + eps).rsqrt()
    return weight * inverse, bias - mean * weight * inverse, inverse
