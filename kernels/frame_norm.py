"""Layer normalisation of the frames of [B, C, T, F] and their energies in one operator, for training on a CPU.

    y = weight (x - mean) / sqrt(variance + eps) + bias        energy = mean of y^2 over F

with mean and variance over channels and bins of a frame. torch's layer norm wants these together at the end, which
takes two transpositions each way, and the energy has a square of its own. Backwards, with M = C F,
u = (x - mean) / deviation, and d = weight (dy + 2 denergy y / F),

    dx = (d - sum d / M - u sum (d u) / M) / deviation
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor, nn


def frame_norm(x: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Normalise each frame; in one operator where it trains on a CPU.

    Args:
        x: [B, C, T, F].
        norm: over (C, F), with weight and bias.

    Returns:
        y [B, C, T, F] and the energy of each of its channels and frames [B, T, C].
    """
    if _pays(x, norm):
        return _frame_norm(x, norm.weight, norm.bias, norm.eps)[:2]
    y = norm(x.transpose(1, 2)).transpose(1, 2)
    return y, y.square().mean(-1).transpose(1, 2)


def _pays(x: Tensor, norm: nn.LayerNorm) -> bool:
    known = x.dtype == norm.weight.dtype and x.dtype in (torch.float32, torch.float64)
    return known and norm.training and x.device.type == "cpu" and torch.is_grad_enabled()


def _loops() -> ModuleType:
    """Imported on first use: numba takes a second, and only training needs it."""
    from kernels import frame_norm_loops

    return frame_norm_loops


@torch.library.custom_op("denoising_speech::frame_norm", mutates_args=())
def _frame_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, energy, and the mean and 1 / deviation of each frame [B, T]."""
    return _loops().forward(x, weight, bias, eps)


@torch.library.custom_op("denoising_speech::frame_norm_gradients", mutates_args=())
def _gradients(
    dy: Tensor, d_energy: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias."""
    return _loops().gradients(dy, d_energy, x, mean, inverse, weight, bias)


@_frame_norm.register_fake
def _(x, weight, bias, eps):
    batch, channels, frames, _ = x.shape
    of_frames = (batch, frames, channels), (batch, frames), (batch, frames)
    return x.new_empty(x.shape), *(x.new_empty(shape) for shape in of_frames)


@_gradients.register_fake
def _(dy, d_energy, x, mean, inverse, weight, bias):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (x, weight, bias))


def _save(ctx, inputs, output):
    x, weight, bias, _ = inputs
    *_, mean, inverse = output
    ctx.mark_non_differentiable(mean, inverse)
    ctx.save_for_backward(x, mean, inverse, weight, bias)


def _backward(ctx, dy, d_energy, *_):
    return *_gradients(dy, d_energy, *ctx.saved_tensors), None


_frame_norm.register_autograd(_backward, setup_context=_save)
