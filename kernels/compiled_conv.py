"""The path that trains depthwise kernels on a CPU: loops over frames that read and write every tensor once.

W(t) of some frames is one small product of mixtures and candidates. A channel of these frames is laid out by phase,
bin f at [(f + padding) % stride, (f + padding) // stride], in rows filled up with zeros to whole registers. There a
kernel is for every time tap and phase three neighbouring taps (w0, w1, w2), and

    y[f] = sum of w_d row[f + d]        drow[m] = sum of w_d dy[m - d]        dw_d = sum over f of dy[f] row[f + d]

Kernels with more than three taps a phase, those that are not depthwise, and numbers that are not of one kind in
single or double precision go the way of `kernels.cpu`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import cpu
from kernels.compiled import VECTOR, add_inner_products, add_product, array, compiled, in_threads

FRAMES = 64  # whose kernels are mixed at once: a channel of them is long enough to be fetched ahead
TAPS = 3  # of a row


@compiled
def _width(bins):
    """Of a row, with room for dy, whose bins reach TAPS - 1 further when they are turned back."""
    return (bins + TAPS - 1 + VECTOR - 1) // VECTOR * VECTOR


@compiled
def _phases(bins, stride, padding):
    """Of each phase: where its bins begin in its row, where in the frame, and how many there are."""
    phases = np.empty((stride, 3), np.int64)
    for phase in range(stride):
        begin = max(0, (padding - phase + stride - 1) // stride)
        phases[phase, 0], phases[phase, 1] = begin, begin * stride + phase - padding
        phases[phase, 2] = (bins - 1 + padding - phase) // stride + 1 - begin
    return phases


# A channel c of an utterance n: rows [R + taps - 1, stride, W], kernels of its frames [R, C * taps * stride * TAPS].


@compiled
def _take(rows, x, n, c, first, phases):
    """Frames from the first on; those that are not there are zeros."""
    stride = rows.shape[1]
    for r in range(rows.shape[0]):
        t = first + r
        if 0 <= t < x.shape[2]:
            for phase in range(stride):
                row, source = rows[r, phase, phases[phase, 0] :], x[n, c, t, phases[phase, 1] :]
                if stride == 1:
                    for m in range(phases[phase, 2]):
                        row[m] = source[m]
                else:
                    for m in range(phases[phase, 2]):
                        row[m] = source[m * stride]
        else:
            rows[r] = 0


@compiled
def _add(dx, rows, n, c, first, phases):
    """The opposite."""
    stride = rows.shape[1]
    for r in range(max(0, -first), min(rows.shape[0], dx.shape[2] - first)):
        for phase in range(stride):
            row, target = rows[r, phase, phases[phase, 0] :], dx[n, c, first + r, phases[phase, 1] :]
            if stride == 1:
                for m in range(phases[phase, 2]):
                    target[m] += row[m]
            else:
                for m in range(phases[phase, 2]):
                    target[m * stride] += row[m]


@compiled
def _turn_back(d_made, dy, n, c, t):
    """A frame of dy after TAPS - 1 zeros."""
    target = d_made[TAPS - 1 :]
    for f in range(dy.shape[3]):
        target[f] = dy[n, c, t, f]


@compiled
def _add_row(made, kernels, r, k, row):
    w0, w1, w2 = kernels[r, k], kernels[r, k + 1], kernels[r, k + 2]
    for f in range(len(made)):
        made[f] += w0 * row[f] + w1 * row[f + 1] + w2 * row[f + 2]


@compiled
def _add_back(d_row, kernels, r, k, d_made):
    w0, w1, w2 = kernels[r, k], kernels[r, k + 1], kernels[r, k + 2]
    for m in range(len(d_made) - VECTOR):
        d_row[m] += w0 * d_made[m + 2] + w1 * d_made[m + 1] + w2 * d_made[m]


@compiled
def _correlate(d_kernels, r, k, d_made, row):
    s0 = s1 = s2 = row.dtype.type(0)
    for f in range(len(d_made) - VECTOR):
        d = d_made[f + 2]
        s0 += d * row[f]
        s1 += d * row[f + 1]
        s2 += d * row[f + 2]
    d_kernels[r, k], d_kernels[r, k + 1], d_kernels[r, k + 2] = s0, s1, s2


# Utterances first to last; candidates are [K, C * taps * stride * TAPS].


@compiled
def _convolve(x, mixtures, candidates, shift, taps, stride, padding, y, first, last):
    """x [B, C, T_in, F] -> y [B, C, T, F_out]."""
    channels, frames, bins = y.shape[1:]
    width, missing = _width(bins), frames + taps - 1 - x.shape[2]
    rows, made = np.zeros((FRAMES + taps - 1, stride, width + VECTOR), x.dtype), np.empty(width, x.dtype)
    mixed = np.empty((FRAMES, candidates.shape[1]), x.dtype)
    phases = _phases(x.shape[3], stride, padding)
    for n in range(first, last):
        for start in range(0, frames, FRAMES):
            stop = min(start + FRAMES, frames)
            mixed[:] = 0
            add_product(mixed, mixtures[n, start:stop], candidates)
            for c in range(channels):
                _take(rows, x, n, c, start - missing, phases)
                for r in range(stop - start):
                    for f in range(width):
                        made[f] = shift[c]
                    for tap in range(taps):
                        for phase in range(stride):
                            k = ((c * taps + tap) * stride + phase) * TAPS
                            _add_row(made, mixed, r, k, rows[r + tap, phase])
                    for f in range(bins):
                        y[n, c, start + r, f] = made[f]


@compiled
def _back_to_input(dy, mixtures, candidates, taps, stride, padding, dx, first, last):
    """Add to dx [B, C, T_in, F]."""
    channels, frames, bins = dy.shape[1:]
    width, missing = _width(bins), frames + taps - 1 - dx.shape[2]
    d_rows, d_made = np.empty((FRAMES + taps - 1, stride, width + VECTOR), dx.dtype), np.zeros(width + VECTOR, dx.dtype)
    mixed = np.empty((FRAMES, candidates.shape[1]), dx.dtype)
    phases = _phases(dx.shape[3], stride, padding)
    for n in range(first, last):
        for start in range(0, frames, FRAMES):
            stop = min(start + FRAMES, frames)
            mixed[:] = 0
            add_product(mixed, mixtures[n, start:stop], candidates)
            for c in range(channels):
                d_rows[:] = 0
                for r in range(stop - start):
                    _turn_back(d_made, dy, n, c, start + r)
                    for tap in range(taps):
                        for phase in range(stride):
                            k = ((c * taps + tap) * stride + phase) * TAPS
                            _add_back(d_rows[r + tap, phase], mixed, r, k, d_made)
                _add(dx, d_rows, n, c, start - missing, phases)


@compiled
def _back_to_kernels(dy, x, mixtures, candidates, taps, stride, padding, d_mixtures, d_candidates, first, last):
    """Add to d_mixtures [B, T, K] and d_candidates, which has the shape of candidates."""
    channels, frames, bins = dy.shape[1:]
    width, missing = _width(bins), frames + taps - 1 - x.shape[2]
    rows, d_made = np.zeros((FRAMES + taps - 1, stride, width + VECTOR), x.dtype), np.zeros(width + VECTOR, x.dtype)
    grads = np.empty((FRAMES, candidates.shape[1]), x.dtype)
    phases = _phases(x.shape[3], stride, padding)
    for n in range(first, last):
        for start in range(0, frames, FRAMES):
            stop = min(start + FRAMES, frames)
            for c in range(channels):
                _take(rows, x, n, c, start - missing, phases)
                for r in range(stop - start):
                    _turn_back(d_made, dy, n, c, start + r)
                    for tap in range(taps):
                        for phase in range(stride):
                            k = ((c * taps + tap) * stride + phase) * TAPS
                            _correlate(grads, r, k, d_made, rows[r + tap, phase])
            add_inner_products(d_mixtures[n, start:stop], grads[: stop - start], candidates)
            add_product(d_candidates, mixtures[n, start:stop].T.copy(), grads[: stop - start])


# On tensors: what a backend of `kernels.op` has.


def forward(
    x: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
) -> Tensor:
    """x [B, C_in, T_in, F] -> y [B, C_out, T, F_out]."""
    if not _fits(x, attention, weight, stride, groups):
        return cpu.forward(x, attention, weight, bias, stride, padding, groups)
    bins = (x.shape[3] + 2 * padding - weight.shape[4]) // stride + 1
    y = torch.empty(x.shape[0], x.shape[1], attention.shape[1], bins, dtype=x.dtype)
    shift = x.new_zeros(groups) if bias is None else bias.to(x.dtype)
    arrays = [array(tensor) for tensor in (x, attention, _by_phase(weight, stride), shift)]
    geometry = weight.shape[3], stride, padding
    in_threads(lambda first, last: _convolve(*arrays, *geometry, y.numpy(), first, last), len(x))
    return y


def input_grad(
    dy: Tensor, attention: Tensor, weight: Tensor, frames_in: int, bins_in: int, stride: int, padding: int, groups: int
) -> Tensor:
    """dy [B, C_out, T, F_out] -> dx [B, C_in, T_in, F]."""
    if not _fits(dy, attention, weight, stride, groups):
        return cpu.input_grad(dy, attention, weight, frames_in, bins_in, stride, padding, groups)
    dx = torch.zeros(*dy.shape[:2], frames_in, bins_in, dtype=dy.dtype)
    arrays = [array(tensor) for tensor in (dy, attention, _by_phase(weight, stride))]
    geometry = weight.shape[3], stride, padding
    in_threads(lambda first, last: _back_to_input(*arrays, *geometry, dx.numpy(), first, last), len(dy))
    return dx


def gradients(
    dy: Tensor,
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    groups: int,
    with_input: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of x (None without with_input), attention and weight."""
    if not _fits(x, attention, weight, stride, groups):
        return cpu.gradients(dy, x, attention, weight, stride, padding, groups, with_input)
    dx = input_grad(dy, attention, weight, *x.shape[2:], stride, padding, groups) if with_input else None
    d_attention = torch.zeros(attention.shape, dtype=x.dtype)
    candidates = _by_phase(weight, stride)
    arrays = [array(tensor) for tensor in (dy, x, attention, candidates)]
    geometry = weight.shape[3], stride, padding

    def share(first: int, last: int) -> Tensor:
        total = torch.zeros_like(candidates)
        _back_to_kernels(*arrays, *geometry, d_attention.numpy(), total.numpy(), first, last)
        return total

    total = torch.stack(in_threads(share, len(x))).sum(0)
    by_tap = total.view(*weight.shape[:4], stride, TAPS).transpose(-1, -2).flatten(-2)
    return dx, d_attention, by_tap[..., : weight.shape[4]].contiguous()


def _fits(x: Tensor, attention: Tensor, weight: Tensor, stride: int, groups: int) -> bool:
    kinds = {x.dtype, attention.dtype, weight.dtype}
    short = cpu.is_depthwise(weight, groups) and weight.shape[4] <= TAPS * stride
    return short and x.device.type == "cpu" and kinds in ({torch.float32}, {torch.float64})


def _by_phase(weight: Tensor, stride: int) -> Tensor:
    """Candidates [K, C, 1, kt, kf] as [K, C * kt * stride * TAPS]."""
    padded = F.pad(weight, (0, TAPS * stride - weight.shape[4])).unflatten(-1, (TAPS, stride))
    return padded.transpose(-1, -2).reshape(len(weight), -1)
