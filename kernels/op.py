"""The public functions: checks, choice of a backend, and registration with torch.

A backend is a module with `forward`, `input_grad` and `gradients`. Two operators stand on these three, each the
adjoint of the other: the convolution, and its input gradient, which is the transposed convolution. So one
family of kernels serves both, and autograd of either uses the other one.
"""

import functools
import importlib.util
import os
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import cpu, naive

BACKENDS = ("naive", "cpu", "compiled", "triton")


def adaptive_conv2d(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    past: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Convolution whose kernel is a new mixture of K candidates in every frame (arXiv 2502.14224, section III).

    `y[b, o, t, f] = bias[o] + sum_k attention[b, t, k] sum_cij weight[k, o, c, i, j] x[b, c, t', f']` with
    `t' = t - kt + 1 + i` and `f' = f * stride + j - padding`. Causal: frame t sees frames t - kt + 1 ... t.

    Args:
        x: input [B, C_in, T, F], T frames of F frequency bins.
        attention: mixture weights [B, T, K] of the output frames, usually a softmax.
        weight: candidate kernels [K, C_out, C_in / groups, kt, kf].
        bias: [C_out], the same in every frame.
        stride, padding: along frequency. In time the stride is 1 and the context lies on the left.
        groups: as in `torch.nn.Conv2d`; `groups == C_in == C_out` is the depthwise convolution.
        past: the kt - 1 frames before x, [B, C_in, kt - 1, F], which streaming passes on; zeros when None.
        backend: "naive", "cpu", "compiled" or "triton". None: the environment variable ADAPTIVE_CONV_BACKEND if
            set, else Triton for CUDA tensors where it is installed and the precision is at most 32 bits, else
            "compiled" on a CPU where gradients are wanted, else "cpu".

    Returns:
        y [B, C_out, T, F_out] in x's dtype, F_out = (F + 2 * padding - kf) // stride + 1.

    Raises:
        ValueError: shapes that do not fit, an unknown backend, or a backend that cannot serve the tensors.
    """
    _check_conv(x, attention, weight, bias, stride, padding, groups, past)
    backend = _choose_backend(backend, x, weight)
    if past is not None and weight.shape[3] > 1:
        x = torch.cat((past.to(x.dtype), x), dim=2)
    if backend == "naive":
        return naive.conv2d(x, attention, weight, bias, stride, padding, groups)
    if backend in ("cpu", "compiled") and attention.shape[1] == 1:
        return cpu.single_frame(x, attention, weight, bias, stride, padding, groups)
    return _conv(x, attention, weight, bias, stride, padding, groups, backend)


def adaptive_conv_transpose2d(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    groups: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Adaptive convolution transposed along frequency: the adjoint of `adaptive_conv2d` with one time tap.

    Args:
        x: input [B, C_in, T, F].
        attention: mixture weights [B, T, K].
        weight: candidate kernels [K, C_in, C_out / groups, 1, kf], laid out as in `torch.nn.ConvTranspose2d`.
        bias: [C_out].
        stride, padding, output_padding: along frequency, as in `torch.nn.ConvTranspose2d`.
        groups, backend: as in `adaptive_conv2d`.

    Returns:
        y [B, C_out, T, F_out] in x's dtype, F_out = (F - 1) * stride - 2 * padding + kf + output_padding.

    Raises:
        ValueError: as `adaptive_conv2d`, and for more than one time tap.
    """
    _check_transpose(x, attention, weight, bias, stride, padding, output_padding, groups)
    backend = _choose_backend(backend, x, weight)
    if backend == "naive":
        return naive.conv_transpose2d(x, attention, weight, bias, stride, padding, output_padding, groups)
    if backend in ("cpu", "compiled") and attention.shape[1] == 1:
        geometry = dict(stride=(1, stride), padding=(0, padding), output_padding=(0, output_padding))
        return cpu.single_frame_conv(F.conv_transpose2d, x, attention, weight, bias, groups, **geometry)
    bins = (x.shape[3] - 1) * stride - 2 * padding + weight.shape[4] + output_padding
    y = _input_grad(x, attention, weight, x.shape[2], bins, stride, padding, groups, backend)
    return y if bias is None else y.add_(bias.to(y.dtype)[:, None, None])  # y is new: nobody else has it


# Choice of a backend


def _choose_backend(backend: str | None, x: Tensor, weight: Tensor) -> str:
    backend = backend or os.environ.get("ADAPTIVE_CONV_BACKEND")
    if not backend:
        if x.is_cuda:
            return "triton" if x.dtype != torch.float64 and _triton_installed() else "cpu"
        trains = torch.is_grad_enabled() and weight.requires_grad and not torch.compiler.is_exporting()
        return "compiled" if trains else "cpu"
    if backend not in BACKENDS:
        raise ValueError(
            f"backend is {backend!r}; it must be one of {', '.join(BACKENDS)} "
            "(the argument, or ADAPTIVE_CONV_BACKEND in the environment)"
        )
    if backend == "triton":
        _check_triton(x)
    return backend


def _check_triton(x: Tensor) -> None:
    if not _triton_installed():
        raise ValueError("backend 'triton' needs the package triton: install it, or use backend='cpu'")
    if x.dtype == torch.float64:
        raise ValueError("backend 'triton' sums in 32 bits, x is float64: use backend='naive' or 'cpu'")
    if not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend 'triton' needs CUDA tensors, x is on {x.device}: move it, use backend='cpu', or set "
            "TRITON_INTERPRET=1 before the first use to run the kernels in Triton's (slow) interpreter"
        )


@functools.cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _module(backend: str) -> ModuleType:
    """Triton and numba are imported on first use: inference on a CPU needs neither, and they take a while."""
    if backend == "cpu":
        return cpu
    if backend == "compiled":
        from kernels import compiled_conv

        return compiled_conv
    from kernels import triton_backend

    return triton_backend


# Operators. `x` may bring fewer than T + kt - 1 frames; zeros are put on its left.


@torch.library.custom_op("denoising_speech::adaptive_conv2d", mutates_args=())
def _conv(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    groups: int,
    backend: str,
) -> Tensor:
    return _module(backend).forward(x, attention, weight, bias, stride, padding, groups)


@torch.library.custom_op("denoising_speech::adaptive_conv2d_input_grad", mutates_args=())
def _input_grad(
    dy: Tensor,
    attention: Tensor,
    weight: Tensor,
    frames_in: int,
    bins_in: int,
    stride: int,
    padding: int,
    groups: int,
    backend: str,
) -> Tensor:
    return _module(backend).input_grad(dy, attention, weight, frames_in, bins_in, stride, padding, groups)


@torch.library.custom_op("denoising_speech::adaptive_conv2d_gradients", mutates_args=())
def _gradients(
    dy: Tensor,
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    groups: int,
    with_input: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (no elements without with_input), attention and weight."""
    dx, *others = _module(backend).gradients(dy, x, attention, weight, stride, padding, groups, with_input)
    return x.new_empty(0) if dx is None else dx, *others


@_conv.register_fake
def _(x, attention, weight, bias, stride, padding, groups, backend):
    bins = (x.shape[3] + 2 * padding - weight.shape[4]) // stride + 1
    return x.new_empty(x.shape[0], weight.shape[1], attention.shape[1], bins)


@_input_grad.register_fake
def _(dy, attention, weight, frames_in, bins_in, stride, padding, groups, backend):
    return dy.new_empty(dy.shape[0], weight.shape[2] * groups, frames_in, bins_in)


@_gradients.register_fake
def _(dy, x, attention, weight, stride, padding, groups, with_input, backend):
    dx = x.new_empty(x.shape if with_input else 0)
    return dx, attention.new_empty(attention.shape), weight.new_empty(weight.shape)


def _save_conv(ctx, inputs, output):
    x, attention, weight, bias, *ctx.geometry = inputs
    ctx.save_for_backward(x, attention, weight)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward_conv(ctx, dy):
    x, attention, weight = ctx.saved_tensors
    with_input, *of_kernels, with_bias = ctx.needs_input_grad[:4]
    *geometry, backend = ctx.geometry
    dx = d_attention = d_weight = None
    if any(of_kernels):
        dx, d_attention, d_weight = _gradients(dy, x, attention, weight, *geometry, with_input, backend)
    elif with_input:
        dx = _input_grad(dy, attention, weight, x.shape[2], x.shape[3], *geometry, backend)
    d_bias = dy.sum((0, 2, 3), dtype=ctx.bias_dtype) if with_bias else None
    return dx if with_input else None, d_attention, d_weight, d_bias, None, None, None, None


def _save_input_grad(ctx, inputs, output):
    dy, attention, weight, _, _, *ctx.geometry = inputs
    ctx.save_for_backward(dy, attention, weight)


def _backward_input_grad(ctx, d_dx):
    """The adjoint of the adjoint: the roles of input and output change places."""
    dy, attention, weight = ctx.saved_tensors
    d_dy = d_attention = d_weight = None
    *geometry, backend = ctx.geometry
    if ctx.needs_input_grad[0]:
        d_dy = _conv(d_dx, attention, weight, None, *geometry, backend)
    if any(ctx.needs_input_grad[1:3]):
        _, d_attention, d_weight = _gradients(dy, d_dx, attention, weight, *geometry, False, backend)
    return d_dy, d_attention, d_weight, None, None, None, None, None, None


_conv.register_autograd(_backward_conv, setup_context=_save_conv)
_input_grad.register_autograd(_backward_input_grad, setup_context=_save_input_grad)


# Checks


def _check_common(x, attention, weight, stride: int, padding: int, groups: int) -> None:
    if x.dim() != 4 or attention.dim() != 3 or weight.dim() != 5:
        raise ValueError(
            "expected x [B, C_in, T, F], attention [B, T, K] and weight [K, ., ., kt, kf], "
            f"got {list(x.shape)}, {list(attention.shape)} and {list(weight.shape)}"
        )
    if attention.shape[:2] != (x.shape[0], x.shape[2]) or attention.shape[2] != weight.shape[0]:
        raise ValueError(
            f"attention is {list(attention.shape)}; x {list(x.shape)} and weight {list(weight.shape)} need "
            f"[B, T, K] = [{x.shape[0]}, {x.shape[2]}, {weight.shape[0]}]: one mixture for each frame of x"
        )
    if stride < 1 or padding < 0 or groups < 1 or weight.shape[1] % groups:
        raise ValueError(
            f"stride {stride}, padding {padding}, groups {groups}: stride and groups must be at least 1, "
            f"padding at least 0, and groups must divide the channels of weight {list(weight.shape)}"
        )


def _check_bias(bias: Tensor | None, c_out: int) -> None:
    if bias is not None and bias.shape != (c_out,):
        raise ValueError(f"bias is {list(bias.shape)}; it needs a number for each of {c_out} output channels")


def _check_conv(x, attention, weight, bias, stride, padding, groups, past) -> None:
    _check_common(x, attention, weight, stride, padding, groups)
    _check_bias(bias, weight.shape[1])
    batch, c_in, _, bins = x.shape
    kt, kf = weight.shape[3:]
    if weight.shape[2] * groups != c_in:
        raise ValueError(
            f"x has {c_in} channels; weight {list(weight.shape)} with groups={groups} needs "
            f"{weight.shape[2] * groups} (weight is [K, C_out, C_in / groups, kt, kf])"
        )
    if bins + 2 * padding < kf:
        raise ValueError(f"{bins} bins with padding {padding} are fewer than {kf} kernel taps: raise padding")
    if past is not None and past.shape != (batch, c_in, kt - 1, bins):
        raise ValueError(
            f"past is {list(past.shape)}; a kernel of {kt} time taps needs the kt - 1 frames before x, "
            f"[{batch}, {c_in}, {kt - 1}, {bins}], or None for silence"
        )


def _check_transpose(x, attention, weight, bias, stride, padding, output_padding, groups) -> None:
    _check_common(x, attention, weight, stride, padding, groups)
    _check_bias(bias, weight.shape[2] * groups)
    if weight.shape[3] != 1:
        raise ValueError(
            f"weight {list(weight.shape)} has {weight.shape[3]} time taps; the transposed convolution takes "
            "one. With more, write it as adaptive_conv2d on x with zeros between its bins"
        )
    if weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"x has {x.shape[1]} channels, weight {list(weight.shape)} needs {weight.shape[1]} "
            "(weight is [K, C_in, C_out / groups, 1, kf])"
        )
    if not 0 <= output_padding < stride:
        raise ValueError(f"output_padding {output_padding} must be at least 0 and less than stride {stride}")
