"""The definition of adaptive convolution, written to be read: every other backend is tested against it.

Per-frame kernels and input patches are both materialised, so this is for small inputs, double precision,
gradient checks, and exporters that know plain torch operations only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def conv2d(
    x: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
) -> Tensor:
    """Adaptive convolution of x [B, C_in, T_in, F] -> [B, C_out, T, F_out]; missing left frames are zeros."""
    kt, kf = weight.shape[-2:]
    missing = attention.shape[1] + kt - 1 - x.shape[2]
    patches = F.pad(x, (padding, padding, missing, 0)).unfold(2, kt, 1).unfold(3, kf, stride)
    patches = patches.unflatten(1, (groups, -1))  # [B, g, C_in/g, T, F_out, kt, kf]
    kernels = torch.einsum("btk,kocij->btocij", attention, weight).unflatten(2, (groups, -1))
    y = torch.einsum("bgctfij,btgocij->bgotf", patches, kernels).flatten(1, 2)
    return y if bias is None else y + bias[:, None, None]


def conv_transpose2d(
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    output_padding: int,
    groups: int,
) -> Tensor:
    """Transposed along frequency: stride - 1 zeros between bins, then convolution with flipped kernels."""
    k, c_in, _, _, kf = weight.shape
    spread = F.pad(x[..., None], (0, stride - 1)).flatten(-2)
    spread = spread[..., : (x.shape[-1] - 1) * stride + 1]
    left, right = kf - 1 - padding, kf - 1 - padding + output_padding
    flipped = weight.unflatten(1, (groups, c_in // groups)).transpose(2, 3).flatten(1, 2).flip(-1)
    return conv2d(F.pad(spread, (left, right)), attention, flipped, bias, 1, 0, groups)
