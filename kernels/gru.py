"""Several small GRUs side by side, written for training on a CPU.

torch trains a GRU on a CPU step by step through autograd, some thirty operators a step forward and backward, which
for networks as small as an enhancer's is most of their time. Here one operator serves a group of G GRUs of the
same size, time first and sequences last, [L, G, features, N], with loops (`kernels.gru_loops`) that take a block of
sequences through all steps without leaving the cache:

    r, z = sigmoid(W x_t + U h + c)     q = U_n h + c_n     n = tanh(W_n x_t + b_n + r q)     h' = n + z (h - n)

Only x and the states are kept. Backwards the gates of a step are made again, and the gradients of their sums are,
with d the gradient of h',

    dn = d (1 - z)(1 - n^2)     dz = d (h - n) z (1 - z)     dr = dn q r (1 - r)     dq = dn r

and h gets d z and what comes back through U. The definition that tests compare with is `nn.GRU`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn


def pays(part: nn.Module, x: Tensor, memory: Tensor | None) -> bool:
    """Whether `grouped_gru` is the faster way: it trains, on a CPU, and sequences start from zeros."""
    known = all(p.dtype in (torch.float32, torch.float64) for p in part.parameters())
    return part.training and memory is None and torch.is_grad_enabled() and x.device.type == "cpu" and known


def grouped_gru(x: Tensor, parts: Sequence[nn.GRU]) -> tuple[Tensor, Tensor]:
    """Apply GRUs to equal parts of the features, from zeros, in both directions if they are bidirectional.

    Args:
        x: [L, features, N], L steps of N sequences.
        parts: one-layer GRUs of the same size with biases, in single or double precision.

    Returns:
        outputs [L, outputs of all parts, N], those of a part in torch's order (forward, then backward), and the
        last state of the forward direction [N, hidden of all parts].
    """
    x = x.to(parts[0].weight_ih_l0.dtype).unflatten(1, (len(parts), -1))
    suffixes = ("", "_reverse") if parts[0].bidirectional else ("",)
    packed = zip(*(_packed(part, suffix) for part in parts for suffix in suffixes), strict=True)
    y = _gru(x, *(torch.stack(same) for same in packed), len(suffixes))
    return y.flatten(1, 2), y[-1, :: len(suffixes)].flatten(0, 1).t().contiguous()


def _packed(part: nn.GRU, suffix: str = "") -> tuple[Tensor, Tensor, Tensor]:
    """Of one direction: weights of x [3 * hidden, features] for r, z, n, of h for q, r, z, shifts of q, r, z, n."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    of_x, of_h, shift, shift_h = (getattr(part, name + suffix) for name in names)
    both, new = shift[: -part.hidden_size] + shift_h[: -part.hidden_size], shift[-part.hidden_size :]
    return of_x, of_h.roll(part.hidden_size, 0), torch.cat((shift_h[-part.hidden_size :], both, new))


def _loops() -> ModuleType:
    """Imported on first use: numba takes a second, and only training needs it."""
    from kernels import gru_loops

    return gru_loops


@torch.library.custom_op("denoising_speech::gru", mutates_args=())
def _gru(x: Tensor, of_x: Tensor, of_h: Tensor, shift: Tensor, directions: int) -> Tensor:
    """States [L, G, H, N] after each step of x [L, G / directions, features, N]; see `_packed` for the weights."""
    return _loops().forward(x, of_x, of_h, shift, directions)


@torch.library.custom_op("denoising_speech::gru_gradients", mutates_args=())
def _gru_gradients(
    dy: Tensor, x: Tensor, y: Tensor, of_x: Tensor, of_h: Tensor, shift: Tensor, directions: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, of_x, of_h and shift."""
    return _loops().gradients(dy, x, y, of_x, of_h, shift, directions)


@_gru.register_fake
def _(x, of_x, of_h, shift, directions):
    return x.new_empty(x.shape[0], of_h.shape[0], of_h.shape[2], x.shape[3])


@_gru_gradients.register_fake
def _(dy, x, y, of_x, of_h, shift, directions):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (x, of_x, of_h, shift))


def _save(ctx, inputs, output):
    x, *weights, ctx.directions = inputs
    ctx.save_for_backward(x, output, *weights)


def _backward(ctx, dy):
    return *_gru_gradients(dy, *ctx.saved_tensors, ctx.directions), None


_gru.register_autograd(_backward, setup_context=_save)
