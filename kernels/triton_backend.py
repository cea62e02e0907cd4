"""The Triton path: launches of the kernels in `kernels.triton_kernels` for tensors of any shape and type."""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_kernels import dense, dense_kernel_grad, depthwise, depthwise_kernel_grad

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FRAMES = 16  # output frames of one depthwise program
CHANNELS_PER_PROGRAM = 16  # channels over which one depthwise program sums the gradient of the attention
PROGRAMS = 4096  # that share the work when the candidates' gradient is summed: enough for a large GPU


def forward(
    x: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
) -> Tensor:
    """x [B, C_in, T_in, F] -> y [B, C_out, T, F_out]."""
    bins = (x.shape[3] + 2 * padding - weight.shape[4]) // stride + 1
    y = x.new_empty(x.shape[0], weight.shape[1], attention.shape[1], bins)
    missing = attention.shape[1] + weight.shape[3] - 1 - x.shape[2]
    _convolve(x, attention, weight, bias, y, missing, stride, padding, groups, transposed=False)
    return y


def input_grad(
    dy: Tensor,
    attention: Tensor,
    weight: Tensor,
    frames_in: int,
    bins_in: int,
    stride: int,
    padding: int,
    groups: int,
) -> Tensor:
    """dy [B, C_out, T, F_out] -> dx [B, C_in, T_in, F]: gathers from each output frame with that frame's kernel."""
    dx = dy.new_empty(dy.shape[0], weight.shape[2] * groups, frames_in, bins_in)
    missing = attention.shape[1] + weight.shape[3] - 1 - frames_in
    _convolve(dy, attention, weight, None, dx, missing, stride, padding, groups, transposed=True)
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
    dx = input_grad(dy, attention, weight, *x.shape[2:], stride, padding, groups) if with_input else None
    launch = _launch_depthwise_kernel_grad if _is_depthwise(weight, groups) else _launch_dense_kernel_grad
    with torch.cuda.device_of(x):
        d_attention, d_weight = launch(dy, x, attention, weight, stride, padding, groups)
    d_attention = d_attention.sum(0).view(attention.shape).to(attention.dtype)
    return dx, d_attention, d_weight.sum(0).view(weight.shape).to(weight.dtype)


def _convolve(x, attention, weight, bias, y, missing, stride, padding, groups, *, transposed: bool) -> None:
    launch = _launch_depthwise if _is_depthwise(weight, groups) else _launch_dense
    with torch.cuda.device_of(x):
        launch(x, attention, weight, bias, y, missing, stride, padding, groups, transposed)


def _launch_depthwise(x, attention, weight, bias, y, missing, stride, padding, groups, transposed) -> None:
    batch, channels, frames, bins = y.shape
    k, _, _, kt, kf = weight.shape
    wk, wc, _, wi, wj = weight.stride()
    bf = _tile(bins, 16, 128)
    grid = (batch * channels * triton.cdiv(frames, FRAMES) * triton.cdiv(bins, bf),)
    depthwise[grid](
        x, attention, weight, bias, y,
        *x.stride(), *attention.stride(), wk, wc, wi, wj, *y.stride(),
        channels, x.shape[2], x.shape[3], frames, bins, missing, stride, padding,
        K=k, KT=kt, KF=kf, HAS_BIAS=bias is not None, TRANSPOSED=transposed,
        BT=FRAMES, BF=bf, BK=triton.next_power_of_2(k),
    )  # fmt: skip


def _launch_dense(x, attention, weight, bias, y, missing, stride, padding, groups, transposed) -> None:
    batch, _, frames, bins = y.shape
    k, _, _, kt, kf = weight.shape
    wk, wo, wc, wi, wj = weight.stride()
    wg = weight.shape[1] // groups * wo
    if transposed:
        wo, wc = wc, wo
    c_in, c_out = x.shape[1] // groups, y.shape[1] // groups
    bo, bc, bf = _tile(c_out, 16, 32), _tile(c_in, 16, 32), _tile(bins, 16, 64)
    grid = (batch * frames * groups * triton.cdiv(c_out, bo) * triton.cdiv(bins, bf),)
    dense[grid](
        x, attention, weight, bias, y,
        *x.stride(), *attention.stride(), wk, wo, wc, wi, wj, wg, *y.stride(),
        groups, c_in, c_out, x.shape[2], x.shape[3], frames, bins, missing, stride, padding,
        K=k, KT=kt, KF=kf, HAS_BIAS=bias is not None, TRANSPOSED=transposed,
        DOT=_dot_type(x), PRECISION=_precision(), BO=bo, BC=bc, BF=bf, num_stages=2,
    )  # fmt: skip


def _launch_depthwise_kernel_grad(dy, x, attention, weight, stride, padding, groups) -> tuple[Tensor, Tensor]:
    batch, channels, frames, bins = dy.shape
    k, _, _, kt, kf = weight.shape
    wk, wc, _, wi, wj = weight.stride()
    blocks_c, blocks_t = triton.cdiv(channels, CHANNELS_PER_PROGRAM), triton.cdiv(frames, FRAMES)
    d_attention = x.new_empty(blocks_c, batch, frames, k, dtype=torch.float32)
    d_weight = x.new_empty(batch * blocks_t, k, channels, kt * kf, dtype=torch.float32)
    depthwise_kernel_grad[(batch * blocks_c * blocks_t,)](
        dy, x, attention, weight, d_attention, d_weight,
        *dy.stride(), *x.stride(), *attention.stride(), wk, wc, wi, wj,
        channels, batch, x.shape[2], x.shape[3], frames, bins, frames + kt - 1 - x.shape[2], stride, padding,
        K=k, KT=kt, KF=kf, CHANNELS=CHANNELS_PER_PROGRAM,
        BT=FRAMES, BF=_tile(bins, 16, 128), BK=triton.next_power_of_2(k),
    )  # fmt: skip
    return d_attention, d_weight


def _launch_dense_kernel_grad(dy, x, attention, weight, stride, padding, groups) -> tuple[Tensor, Tensor]:
    batch, _, frames, bins = dy.shape
    k, _, c_in, kt, kf = weight.shape
    wk, wo, wc, wi, wj = weight.stride()
    c_out, rows = weight.shape[1] // groups, batch * frames
    bo, bc = _tile(c_out, 16, 32), _tile(c_in, 16, 32)
    tiles = groups * triton.cdiv(c_out, bo) * triton.cdiv(c_in, bc) * kt * kf
    rows_per_program = triton.cdiv(rows, triton.cdiv(PROGRAMS, tiles))
    stretches = triton.cdiv(rows, rows_per_program)
    d_attention = x.new_empty(tiles, rows, k, dtype=torch.float32)
    d_weight = x.new_empty(stretches, *weight.shape, dtype=torch.float32)
    dense_kernel_grad[(tiles * stretches,)](
        dy, x, attention, weight, d_attention, d_weight,
        *dy.stride(), *x.stride(), *attention.stride(), wk, wo, wc, wi, wj, c_out * wo,
        groups, c_in, c_out, batch, x.shape[2], x.shape[3], frames, bins, frames + kt - 1 - x.shape[2],
        stride, padding, rows_per_program,
        K=k, KT=kt, KF=kf, DOT=_dot_type(x), PRECISION=_precision(),
        BO=bo, BC=bc, BF=_tile(bins, 16, 64), BK=triton.next_power_of_2(k),
    )  # fmt: skip
    return d_attention, d_weight


def _is_depthwise(weight: Tensor, groups: int) -> bool:
    return weight.shape[1] == groups and weight.shape[2] == 1


def _tile(size: int, low: int, high: int) -> int:
    return min(high, max(low, triton.next_power_of_2(size)))


def _dot_type(x: Tensor):
    """Half precision goes to the tensor cores as it is; the interpreter computes it wrongly, so never there."""
    if INTERPRETED or x.dtype == torch.float32:
        return tl.float32
    return tl.bfloat16 if x.dtype == torch.bfloat16 else tl.float16


def _precision() -> str:
    """As torch's own convolutions do: TF32 where allowed."""
    return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
