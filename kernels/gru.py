"""Several small GRUs side by side, written for training on a CPU.

torch trains a GRU on a CPU step by step through autograd, some thirty operators a step forward and backward, which
for networks as small as an enhancer's is most of their time. Here one operator serves a group of P GRUs of the
same size, time first and sequences last, [L, P, features, N], so that every gate is one stretch of memory:

    (r, z, q, n) = W (x_t, 1, h)       one product: q = U_n h + c_n, and n so far lacks r q
    h' = n + z (h - n)                 with r = sigmoid(r), z = sigmoid(z), n = tanh(n + r q)

Backwards, the gradients of these four are the gradient of h' times factors that do not depend on later steps,

    (1 - z)(1 - n^2) q r (1 - r),   (h - n) z (1 - z),   (1 - z)(1 - n^2) r,   (1 - z)(1 - n^2)

which are made for as many steps at once as the cache holds. The definition that tests compare with is `nn.GRU`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

BLOCK_ELEMENTS = 2**17  # of the gates of the steps whose factors are made at once: 0.5 MB in single precision


def pays(part: nn.Module, x: Tensor, memory: Tensor | None) -> bool:
    """Whether `grouped_gru` is the faster way: it trains, on a CPU, and sequences start from zeros."""
    return part.training and memory is None and torch.is_grad_enabled() and x.device.type == "cpu"


def grouped_gru(x: Tensor, parts: Sequence[nn.GRU]) -> tuple[Tensor, Tensor]:
    """Apply GRUs to equal parts of the features, from zeros, in both directions if they are bidirectional.

    Args:
        x: [L, features, N], L steps of N sequences.
        parts: one-layer GRUs of the same size with biases.

    Returns:
        outputs [L, outputs of all parts, N], those of a part in torch's order (forward, then backward), and the
        last state of the forward direction [N, hidden of all parts].
    """
    x = x.to(parts[0].weight_ih_l0.dtype).unflatten(1, (len(parts), -1))
    if not parts[0].bidirectional:
        y = _gru(x, torch.stack([_packed(part) for part in parts]))[0]
        return y.flatten(1, 2), y[-1].flatten(0, 1).t().contiguous()
    # The backward direction of a part is one more GRU, whose steps come in reverse order.
    x = torch.stack((x, x.flip(0)), 2).flatten(1, 2)
    weight = torch.stack([_packed(part, suffix) for part in parts for suffix in ("", "_reverse")])
    y = _gru(x, weight)[0].unflatten(1, (len(parts), 2))
    outputs = torch.stack((y[:, :, 0], y[:, :, 1].flip(0)), 2)
    return outputs.flatten(1, 3), y[-1, :, 0].flatten(0, 1).t().contiguous()


def _packed(part: nn.GRU, suffix: str = "") -> Tensor:
    """Weights and biases of one direction as [4 * hidden, features + 1 + hidden], rows r, z, q, n."""
    names = ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0")
    of_x, shift, of_h, shift_h = (getattr(part, name + suffix) for name in names)
    hidden = part.hidden_size
    both = torch.cat((of_x, (shift + shift_h)[:, None], of_h), 1)[: 2 * hidden]
    new = 2 * hidden
    q = torch.cat((torch.zeros_like(of_x[new:]), shift_h[new:, None], of_h[new:]), 1)
    n = torch.cat((of_x[new:], shift[new:, None], torch.zeros_like(of_h[new:])), 1)
    return torch.cat((both, q, n))


@torch.library.custom_op("denoising_speech::gru", mutates_args=())
def _gru(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States [L, P, H, N] after each step and, for the way back, (x, 1, h) before each step and the gates after it."""
    length, parts, features, sequences = x.shape
    hidden = weight.shape[1] // 4
    seen = x.new_empty(length + 1, parts, features + 1 + hidden, sequences)
    seen[:length, :, :features] = x
    seen[:, :, features] = 1
    seen[0, :, features + 1 :] = 0
    gates = x.new_empty(length, parts, 4 * hidden, sequences)
    r, z, q, n = (gate.unbind(0) for gate in gates.chunk(4, 2))
    both, sums, inputs = gates[:, :, : 2 * hidden].unbind(0), gates.unbind(0), seen.unbind(0)
    states = seen[:, :, features + 1 :].unbind(0)
    for t in range(length):
        torch.bmm(weight, inputs[t], out=sums[t])
        both[t].sigmoid_()
        n[t].addcmul_(r[t], q[t]).tanh_()
        torch.lerp(n[t], states[t], z[t], out=states[t + 1])
    return seen[1:, :, features + 1 :].clone(memory_format=torch.contiguous_format), seen, gates


@torch.library.custom_op("denoising_speech::gru_gradients", mutates_args=())
def _gru_gradients(dy: Tensor, seen: Tensor, gates: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    length, parts, hidden, sequences = dy.shape
    d_seen = torch.empty_like(seen[:length])
    d_weight, transposed = torch.zeros_like(weight), weight.transpose(1, 2).contiguous()
    carried = torch.zeros_like(dy[0])
    for t, factors, keep in _factors(seen, gates):
        d_h = carried.add_(dy[t])
        torch.mul(factors, d_h[:, None], out=factors)
        d_gates = factors.flatten(1, 2)
        torch.bmm(transposed, d_gates, out=d_seen[t])
        d_weight.baddbmm_(d_gates, seen[t].transpose(1, 2))
        carried = torch.addcmul(d_seen[t, :, -hidden:], d_h, keep)
    return d_seen[:, :, : -hidden - 1].clone(memory_format=torch.contiguous_format), d_weight


def _factors(seen: Tensor, gates: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """From the last step to the first: its number, the factors of its gates [P, 4, H, N] and z."""
    length, parts, hidden, sequences = len(gates), gates.shape[1], gates.shape[2] // 4, gates.shape[3]
    step = max(1, BLOCK_ELEMENTS // gates[0].numel())
    for stop in range(length, 0, -step):
        start = max(0, stop - step)
        r, z, q, n = gates[start:stop].chunk(4, 2)
        before = seen[start:stop, :, -hidden:]
        block = gates.new_empty(stop - start, parts, 4, hidden, sequences)
        of_r, of_z, of_q, of_n = block.unbind(2)
        torch.mul(1 - z, 1 - n * n, out=of_n)
        torch.mul(of_n, r, out=of_q)
        torch.mul(of_q * q, 1 - r, out=of_r)
        torch.mul((before - n).mul_(z), 1 - z, out=of_z)
        yield from zip(range(stop - 1, start - 1, -1), reversed(block.unbind(0)), reversed(z.unbind(0)), strict=True)


@_gru.register_fake
def _(x, weight):
    length, parts, features, sequences = x.shape
    hidden = weight.shape[1] // 4
    seen = x.new_empty(length + 1, parts, features + 1 + hidden, sequences)
    return (
        x.new_empty(length, parts, hidden, sequences),
        seen,
        x.new_empty(length, parts, 4 * hidden, sequences),
    )


@_gru_gradients.register_fake
def _(dy, seen, gates, weight):
    length, parts, hidden, sequences = dy.shape
    return dy.new_empty(length, parts, seen.shape[2] - 1 - hidden, sequences), torch.empty_like(weight)


def _save(ctx, inputs, output):
    _, seen, gates = output
    ctx.save_for_backward(seen, gates, inputs[1])
    ctx.mark_non_differentiable(seen, gates)


def _backward(ctx, dy, *_):
    return _gru_gradients(dy, *ctx.saved_tensors)


_gru.register_autograd(_backward, setup_context=_save)
