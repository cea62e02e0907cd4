"""The compiled loops of `kernels.gru`: a step of a block of sequences at a time, so that it never leaves the cache.

Gates are in the order q, r, z, n, so that those which look at the state are neighbours (q, r, z), as are those
which look at the input (r, z, n). Wide loops, for many sequences, keep a block as [gates * hidden, sequences]; deep
loops, for a few, as [gates, sequences, hidden]. What happens to each number is the same in both.
"""

import numpy as np
import torch
from torch import Tensor

from kernels.compiled import add_inner_products, add_product, array, compiled, in_threads, tanh

FEW = 16  # fewer sequences do not fill a register
LANES = 320  # sequences of a block: a step of it stays in the first two caches
WHOLE = 32  # blocks are filled up with zeros to a multiple, two of the widest registers


@compiled
def _activate(q, r, z, n):
    """From sums to gates, in place: r and z sigmoid, n = tanh(n + r q)."""
    half = r.dtype.type(0.5)
    for i in range(r.shape[0]):
        for j in range(r.shape[1]):
            r[i, j] = half + half * tanh(half * r[i, j])
        for j in range(r.shape[1]):
            z[i, j] = half + half * tanh(half * z[i, j])
        for j in range(r.shape[1]):
            n[i, j] = tanh(n[i, j] + r[i, j] * q[i, j])


@compiled
def _advance(h, z, n):
    """h = n + z (h - n)."""
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            h[i, j] = n[i, j] + z[i, j] * (h[i, j] - n[i, j])


@compiled
def _differentiate(q, r, z, n, d_h, h):
    """Gates become the gradients of their sums, d_h what goes straight on to h, the state before the step."""
    one = r.dtype.type(1)
    for i in range(h.shape[0]):
        for j in range(h.shape[1]):
            d, of_z, of_n = d_h[i, j], z[i, j], n[i, j]
            z[i, j] = d * (h[i, j] - of_n) * of_z * (one - of_z)
            n[i, j] = d * (one - of_z) * (one - of_n * of_n)
            d_h[i, j] = d * of_z
        for j in range(h.shape[1]):
            d, of_r = n[i, j], r[i, j]
            r[i, j] = d * q[i, j] * of_r * (one - of_r)
            q[i, j] = d * of_r


# Wide: x [L, P, F, N], y [L, G, H, N], weights of_x [G, 3 H, F], of_h [G, 3 H, H], shift [G, 4 H].


@compiled
def _gates(gates, x, h, of_x, of_h, shift):
    """The gates [4 H, J] of a block whose input is x [F, J] and whose state is h [H, J]."""
    hidden = h.shape[0]
    for i in range(4 * hidden):
        for j in range(h.shape[1]):
            gates[i, j] = shift[i]
    add_product(gates[: 3 * hidden], of_h, h)
    add_product(gates[hidden:], of_x, x)
    q, r, z, n = (gates[:hidden], gates[hidden : 2 * hidden], gates[2 * hidden : 3 * hidden], gates[3 * hidden :])
    _activate(q, r, z, n)


@compiled
def _take(block, source, first, lanes):
    """Sequences first to first + lanes of source [I, N] into block [I, J]."""
    for i in range(block.shape[0]):
        for j in range(lanes):
            block[i, j] = source[i, first + j]


@compiled
def _add(block, source, first, lanes):
    for i in range(block.shape[0]):
        for j in range(lanes):
            block[i, j] += source[i, first + j]


@compiled
def _add_to(target, block, first, lanes):
    for i in range(block.shape[0]):
        for j in range(lanes):
            target[i, first + j] += block[i, j]


@compiled
def _give(target, block, first, lanes):
    for i in range(block.shape[0]):
        for j in range(lanes):
            target[i, first + j] = block[i, j]


@compiled
def _blocks(sequences):
    """How many blocks, and their even width."""
    count = (sequences + LANES - 1) // LANES
    return count, ((sequences + count - 1) // count + WHOLE - 1) // WHOLE * WHOLE


@compiled
def wide_forward(x, of_x, of_h, shift, directions, y, first, last):
    """States y of sequences first to last; of two directions of a part the second starts at the end."""
    length, groups, hidden, _ = y.shape
    blocks, width = _blocks(last - first)
    seen, gates = np.zeros((x.shape[2], width), x.dtype), np.empty((4 * hidden, width), x.dtype)
    for group in range(groups):
        states = np.zeros((blocks, hidden, width), x.dtype)
        for step in range(length):
            t = length - 1 - step if group % directions else step
            for block in range(blocks):
                start, h = first + block * width, states[block]
                lanes = min(width, last - start)
                _take(seen, x[t, group // directions], start, lanes)
                _gates(gates, seen, h, of_x[group], of_h[group], shift[group])
                _advance(h, gates[2 * hidden : 3 * hidden], gates[3 * hidden :])
                _give(y[t, group], h, start, lanes)


@compiled
def wide_backward(dy, x, y, of_x, of_h, shift, directions, dx, d_of_x, d_of_h, d_shift, first, last):
    """Add the gradients of sequences first to last to those of x and of the weights."""
    length, groups, hidden, _ = y.shape
    blocks, width = _blocks(last - first)
    gates = np.empty((4 * hidden, width), x.dtype)
    q, r, z, n = gates[:hidden], gates[hidden : 2 * hidden], gates[2 * hidden : 3 * hidden], gates[3 * hidden :]
    for group in range(groups):
        back_x, back_h = of_x[group].T.copy(), of_h[group].T.copy()
        d_states = np.zeros((blocks, hidden, width), x.dtype)
        for step in range(length - 1, -1, -1):
            t, before = (length - 1 - step, length - step) if group % directions else (step, step - 1)
            # What lies beyond the last sequence has no gradient, whatever its gates are.
            seen, h = np.zeros((x.shape[2], width), x.dtype), np.zeros((hidden, width), x.dtype)
            d_seen = np.empty_like(seen)
            for block in range(blocks):
                start, d_h = first + block * width, d_states[block]
                lanes = min(width, last - start)
                _take(seen, x[t, group // directions], start, lanes)
                if step:
                    _take(h, y[before, group], start, lanes)
                _gates(gates, seen, h, of_x[group], of_h[group], shift[group])
                _add(d_h, dy[t, group], start, lanes)
                _differentiate(q, r, z, n, d_h, h)
                add_inner_products(d_of_h[group], gates[: 3 * hidden], h)
                add_inner_products(d_of_x[group], gates[hidden:], seen)
                _add_sums(d_shift[group], gates)
                add_product(d_h, back_h, gates[: 3 * hidden])
                d_seen[:] = 0
                add_product(d_seen, back_x, gates[hidden:])
                _add_to(dx[t, group // directions], d_seen, start, lanes)


@compiled
def _add_sums(out, rows):
    """out [I] += the sums of rows [I, J]."""
    for i in range(rows.shape[0]):
        total = rows.dtype.type(0)
        for j in range(rows.shape[1]):
            total += rows[i, j]
        out[i] += total


# Deep, one group: sums [L, N, 3 H] what the input adds to r, z, n; y [L, N, H]; of_h [3, H, H] for q, r, z.


@compiled
def _deep_gates(gates, sums, h, back_h, shift_q):
    """The gates [4, N, H] of one step; back_h [3, H, H] from the state to q, r and z."""
    sequences, hidden = h.shape
    for i in range(sequences):
        for j in range(hidden):
            gates[0, i, j] = shift_q[j]
        for gate in range(3):
            for j in range(hidden):
                gates[gate + 1, i, j] = sums[i, gate * hidden + j]
    for gate in range(3):
        add_product(gates[gate], h, back_h[gate])
    _activate(gates[0], gates[1], gates[2], gates[3])


@compiled
def deep_forward(sums, back_h, shift_q, y):
    """The states y."""
    h = np.zeros(y.shape[1:], y.dtype)
    gates = np.empty((4, *h.shape), y.dtype)
    for t in range(len(y)):
        _deep_gates(gates, sums[t], h, back_h, shift_q)
        _advance(h, gates[2], gates[3])
        y[t] = h


@compiled
def deep_backward(dy, y, sums, of_h, back_h, shift_q, d_gates):
    """The gradients of the sums of all gates, d_gates [L, 4, N, H]."""
    d_h, start = np.zeros(y.shape[1:], y.dtype), np.zeros(y.shape[1:], y.dtype)
    for t in range(len(y) - 1, -1, -1):
        h, gates = y[t - 1] if t else start, d_gates[t]
        _deep_gates(gates, sums[t], h, back_h, shift_q)
        for i in range(h.shape[0]):
            for j in range(h.shape[1]):
                d_h[i, j] += dy[t, i, j]
        _differentiate(gates[0], gates[1], gates[2], gates[3], d_h, h)
        for gate in range(3):
            add_product(d_h, gates[gate], of_h[gate])


# On tensors; the arguments are those of the operators of `kernels.gru`.


def forward(x: Tensor, of_x: Tensor, of_h: Tensor, shift: Tensor, directions: int) -> Tensor:
    """The states [L, G, H, N]."""
    y = x.new_empty(len(x), len(of_h), of_h.shape[2], x.shape[3])
    if _is_deep(y):
        _, sums, _, back, of_q = _deep_inputs(x, of_x, of_h, shift)
        states = y.new_empty(len(y), y.shape[3], y.shape[2])
        deep_forward(array(sums), array(back), array(of_q), array(states))
        return y.copy_(states.transpose(1, 2)[:, None])
    arrays = [array(tensor) for tensor in (x, of_x, of_h, shift)]
    in_threads(lambda first, last: wide_forward(*arrays, directions, y.numpy(), first, last), x.shape[3])
    return y


def gradients(
    dy: Tensor, x: Tensor, y: Tensor, of_x: Tensor, of_h: Tensor, shift: Tensor, directions: int
) -> tuple[Tensor, ...]:
    """The gradients of x, of_x, of_h and shift."""
    if _is_deep(y):
        return _deep_gradients(dy, x, y, of_x, of_h, shift)
    dx = torch.zeros(x.shape, dtype=x.dtype)
    arrays = [array(tensor) for tensor in (dy, x, y, of_x, of_h, shift)]

    def share(first: int, last: int) -> list[Tensor]:
        sums = [torch.zeros_like(weight) for weight in (of_x, of_h, shift)]
        wide_backward(*arrays, directions, *map(array, (dx, *sums)), first, last)
        return sums

    shares = in_threads(share, x.shape[3])
    return dx, *(torch.stack(sums).sum(0) for sums in zip(*shares, strict=True))


def _is_deep(y: Tensor) -> bool:
    return y.shape[1] == 1 and y.shape[3] < FEW


def _deep_inputs(x: Tensor, of_x: Tensor, of_h: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
    """x [L, N, F], its part of the sums [L, N, 3 H], U and its transpose of each gate [3, H, H], q's shift [H]."""
    hidden = of_h.shape[2]
    x, of_h = x[:, 0].transpose(1, 2).contiguous(), of_h[0].unflatten(0, (3, -1))
    sums = torch.nn.functional.linear(x, of_x[0], shift[0, hidden:])
    return x, sums, of_h, of_h.transpose(1, 2).contiguous(), shift[0, :hidden]


def _deep_gradients(
    dy: Tensor, x: Tensor, y: Tensor, of_x: Tensor, of_h: Tensor, shift: Tensor
) -> tuple[Tensor, ...]:
    """All that no step waits for is left to torch's products."""
    inputs, sums, of_gates, back, of_q = _deep_inputs(x, of_x, of_h, shift)
    states = y[:, 0].transpose(1, 2).contiguous()
    d_gates = y.new_empty(len(y), 4, *states.shape[1:])
    arrays = [array(tensor) for tensor in (dy[:, 0].transpose(1, 2), states, sums, of_gates, back, of_q, d_gates)]
    deep_backward(*arrays)
    d_gates = d_gates.transpose(1, 2).flatten(2)  # [L, N, 4 H]
    hidden = states.shape[2]
    of_sums = d_gates[..., hidden:].flatten(0, 1)
    d_of_h = d_gates[1:, :, : 3 * hidden].flatten(0, 1).t() @ states[:-1].flatten(0, 1)
    dx = (of_sums @ of_x[0]).view_as(inputs).transpose(1, 2).contiguous()[:, None]
    return dx, (of_sums.t() @ inputs.flatten(0, 1))[None], d_of_h[None], d_gates.sum((0, 1))[None]
