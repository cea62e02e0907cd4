"""Batch normalisation, PReLU and a gate in one operator, written for training on a CPU.

    n = weight (x - mean) / sqrt(variance + eps) + bias        y = gate (max(n, 0) + slope min(n, 0))

with the mean and variance of the batch. torch takes seven operators forward and a dozen backward, each of which
reads and writes a tensor that does not fit the cache; here (`kernels.norm_loops`) a channel is read twice each way.
Only x is kept. Backwards, with d = dy gate (1 where n > 0, else slope) and M numbers a channel,

    dbias = sum d       dweight = sum d (x - mean) / deviation       dslope = sum dy gate min(n, 0)
    dx = weight / deviation (d - dbias / M - dweight / M (x - mean) / deviation)
    dgate = sum over F of dy prelu(n)
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn


def norm_prelu(x: Tensor, norm: nn.Module, activation: nn.PReLU, gate: Tensor | None = None) -> Tensor:
    """`activation(norm(x)) * gate`, in one operator where a batch norm trains on a CPU.

    Args:
        x: [B, C, T, F].
        norm, activation: the modules whose parameters and running statistics are used.
        gate: factors [B, C, T, 1]; none when None.
    """
    if not _pays(x, norm):
        y = activation(norm(x))
        return y if gate is None else y * gate
    slope = activation.weight.expand(x.shape[1])
    gate = None if gate is None else gate[..., 0]
    y, mean, variance = _norm_prelu(x, norm.weight, norm.bias, slope, gate, norm.eps)
    with torch.no_grad():
        count = x.numel() // x.shape[1]
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / max(count - 1, 1)), norm.momentum)
    return y


def _pays(x: Tensor, norm: nn.Module) -> bool:
    if type(norm) is not nn.BatchNorm2d or not (norm.training and norm.affine and norm.track_running_stats):
        return False
    known = x.dtype == norm.weight.dtype and x.dtype in (torch.float32, torch.float64)
    return known and x.device.type == "cpu" and norm.momentum is not None and torch.is_grad_enabled()


def _loops() -> ModuleType:
    """Imported on first use: numba takes a second, and only training needs it."""
    from kernels import norm_loops

    return norm_loops


@torch.library.custom_op("denoising_speech::norm_prelu", mutates_args=())
def _norm_prelu(
    x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, gate: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the mean and variance of each channel."""
    return _loops().forward(x, weight, bias, slope, gate, eps)


@torch.library.custom_op("denoising_speech::norm_prelu_gradients", mutates_args=())
def _gradients(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: Tensor,
    gate: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias, slope and gate (of one factor for each clip and channel without a gate)."""
    return _loops().gradients(dy, x, mean, variance, weight, bias, slope, gate, eps)


@_norm_prelu.register_fake
def _(x, weight, bias, slope, gate, eps):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


@_gradients.register_fake
def _(dy, x, mean, variance, weight, bias, slope, gate, eps):
    of_gate = (*x.shape[:2], 1) if gate is None else gate.shape
    return x.new_empty(x.shape), *(weight.new_empty(weight.shape) for _ in range(3)), x.new_empty(of_gate)


def _save(ctx, inputs, output):
    x, weight, bias, slope, gate, ctx.eps = inputs
    _, mean, variance = output
    ctx.mark_non_differentiable(mean, variance)
    ctx.save_for_backward(x, mean, variance, weight, bias, slope, gate)


def _backward(ctx, dy, *_):
    *grads, of_gate = _gradients(dy, *ctx.saved_tensors, ctx.eps)
    return *grads, None if ctx.saved_tensors[-1] is None else of_gate, None


_norm_prelu.register_autograd(_backward, setup_context=_save)
