"""The CPU path: plain torch operations on blocks of frames small enough to stay in the cache.

The kernels W(t) of a block are one matrix product, [frames, K] @ [K, taps], and live as long as the block. Then
- depthwise kernels: frames become channels, [1, C * R, kt, F], and one grouped convolution serves the block; with
  one time tap this is the input as it lies in memory. The kernels' gradient is a forward convolution too, since
  oneDNN's own is several times slower for kernels wider than three taps;
- all others: one batched matrix product, on the frames themselves when pointwise, else on their patches.
For one frame (streaming) the kernel is assembled and handed to torch in plain differentiable operations.

Shapes: B utterances, T output frames, T_in input frames in front of which `missing` = T + kt - 1 - T_in frames
of zeros are understood, R output frames of a block, g groups.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of a block's largest intermediate, 2 MB in single precision; measured best between 2**17 and 2**21.
BLOCK_ELEMENTS = 2**19


def single_frame(
    x: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
) -> Tensor:
    """One output frame: a plain convolution; depthwise a product with its patches, small enough to be faster.

    Exporters get the convolution always, since every runtime has it.
    """
    kt = weight.shape[3]
    if x.shape[2] < kt:
        x = F.pad(x, (0, 0, kt - x.shape[2], 0))
    if len(x) > 1 or not is_depthwise(weight, groups) or torch.compiler.is_exporting():
        geometry = dict(stride=(1, stride), padding=(0, padding))
        return single_frame_conv(F.conv2d, x, attention, weight, bias, groups, **geometry)
    y = _matmul(x[0], _mix(attention[0], weight, x.dtype), stride, padding, groups)[None]
    return y if bias is None else y + bias[:, None, None]


def single_frame_conv(
    conv: Callable[..., Tensor],
    x: Tensor,
    attention: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    **geometry: tuple[int, int],
) -> Tensor:
    """One output frame by plain `conv`, in either direction, with the batch folded into groups."""
    batch, channels, frames, bins = x.shape
    kernels = _mix(attention, weight, x.dtype)
    if batch == 1:
        return conv(x, kernels, bias, groups=groups, **geometry)
    y = conv(x.reshape(1, batch * channels, frames, bins), kernels, groups=batch * groups, **geometry)
    y = y.view(batch, -1, 1, y.shape[-1])
    return y if bias is None else y + bias[:, None, None]


def forward(
    x: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
) -> Tensor:
    """x [B, C_in, T_in, F] -> y [B, C_out, T, F_out]."""
    kt, kf = weight.shape[3:]
    conv = _depthwise if is_depthwise(weight, groups) else _matmul
    bins = (x.shape[-1] + 2 * padding - kf) // stride + 1
    y = x.new_empty(x.shape[0], weight.shape[1], attention.shape[1], bins)
    shift = x.new_zeros(()) if bias is None else bias[:, None, None].to(x.dtype)
    for b, t in _blocks(x, attention, weight, groups):
        frames = _with_context(x[b], t, kt, attention)
        block = conv(frames, _mix(attention[b, t], weight, x.dtype), stride, padding, groups)
        torch.add(block, shift, out=y[b, :, t])
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
    """dy [B, C_out, T, F_out] -> dx [B, C_in, T_in, F]: every output frame scatters with its own kernel."""
    scatter = _depthwise_input_grad if is_depthwise(weight, groups) else _matmul_input_grad
    dx = _empty_input_grad(dy, weight, frames_in, bins_in, groups)
    for b, t in _blocks(dx, attention, weight, groups):
        kernels = _mix(attention[b, t], weight, dy.dtype)
        block = scatter(dy[b, :, t], kernels, bins_in, stride, padding, groups)
        _write(dx[b], t, attention.shape[1], block)
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
    """Gradients of x (None without with_input), attention and weight, block by block while it is in the cache.

    G(t), the gradient of each frame's kernel, is [R, taps] for a block.
    """
    kt, kf = weight.shape[3:]
    depthwise = is_depthwise(weight, groups)
    scatter = _depthwise_input_grad if depthwise else _matmul_input_grad
    correlate = _depthwise_kernel_grad if depthwise else _matmul_kernel_grad
    candidates = weight.reshape(len(weight), -1)
    dx = _empty_input_grad(dy, weight, x.shape[2], x.shape[3], groups) if with_input else None
    d_attention, d_candidates = torch.empty_like(attention), torch.zeros_like(candidates)
    for b, t in _blocks(x, attention, weight, groups):
        mixture, rows = attention[b, t], dy[b, :, t]
        if dx is not None:
            block = scatter(rows, _mix(mixture, weight, dy.dtype), x.shape[3], stride, padding, groups)
            _write(dx[b], t, attention.shape[1], block)
        grads = correlate(rows, _with_context(x[b], t, kt, attention), kt, kf, stride, padding, groups)
        grads = grads.reshape(-1, candidates.shape[1]).to(weight.dtype)
        d_attention[b, t] = grads @ candidates.t()
        d_candidates.addmm_(mixture.t().to(weight.dtype), grads)
    return dx, d_attention, d_candidates.view_as(weight)


def _empty_input_grad(dy: Tensor, weight: Tensor, frames: int, bins: int, groups: int) -> Tensor:
    """Zeros where the frames of neighbouring outputs overlap and add up."""
    shape = dy.shape[0], weight.shape[2] * groups, frames, bins
    return dy.new_zeros(shape) if weight.shape[3] > 1 else dy.new_empty(shape)


def _write(dx: Tensor, t: slice, frames_out: int, block: Tensor) -> None:
    """Put a block's [C_in, R, kt, F] where they belong in one utterance's dx [C_in, T_in, F]."""
    kt = block.shape[2]
    if kt == 1:
        dx[:, t] = block[:, :, 0]
        return
    missing = frames_out + kt - 1 - dx.shape[1]
    for i in range(kt):
        first = min(max(t.start, missing - i), t.stop)  # frames before the first are not there
        target = dx[:, first + i - missing : t.stop + i - missing]
        target += block[:, first - t.start :, i]


# Blocks


def is_depthwise(weight: Tensor, groups: int) -> bool:
    """One input and one output channel per group, more than one tap (a 1 x 1 kernel is only a gain)."""
    _, c_out, c_in, kt, kf = weight.shape
    return c_in == 1 < groups == c_out and kt * kf > 1


def _blocks(x: Tensor, attention: Tensor, weight: Tensor, groups: int) -> Iterator[tuple[int, slice]]:
    """(utterance, stretch of frames), the stretches as even as they go."""
    batch, frames, _ = attention.shape
    taps = weight.shape[3] if is_depthwise(weight, groups) else weight[0, 0, 0].numel()
    per_frame = max(weight[0].numel(), x.shape[1] * x.shape[3] * taps)
    stretches = max(1, round(frames * per_frame / BLOCK_ELEMENTS))
    step = -(-frames // stretches)
    for b in range(batch):
        for t in range(0, frames, step):
            yield b, slice(t, min(t + step, frames))


def _mix(attention: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Kernels of R frames, [R * C_out, C_in/g, kt, kf]."""
    k, _, c_in, kt, kf = weight.shape
    if attention.dtype != weight.dtype:
        attention = attention.to(weight.dtype)
    mixed = torch.mm(attention.reshape(-1, k), weight.reshape(k, -1)).view(-1, c_in, kt, kf)
    return mixed if mixed.dtype == dtype else mixed.to(dtype)


def _with_context(x: Tensor, t: slice, kt: int, attention: Tensor) -> Tensor:
    """The frames of one utterance [C, T_in, F] that the output frames t see, [C, R + kt - 1, F]."""
    missing = attention.shape[1] + kt - 1 - x.shape[1]
    first, last = t.start - missing, t.stop + kt - 1 - missing
    frames = x[:, max(first, 0) : last]
    return F.pad(frames, (0, 0, -first, 0)) if first < 0 else frames


# The work of a block: `frames` [C_in, R + kt - 1, F] are its input with context, `dy` [C_out, R, F_out] and the
# kernels [R * C_out, C_in/g, kt, kf] those of its R frames.


def _depthwise(frames: Tensor, kernels: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    """-> [C_out, R, F_out]."""
    kernels = _by_channel(kernels, groups)
    y = F.conv2d(_fold(frames, kernels.shape[2]), kernels, None, (1, stride), (0, padding), 1, len(kernels))
    return y.view(groups, -1, y.shape[-1])


def _depthwise_input_grad(
    dy: Tensor, kernels: Tensor, bins_in: int, stride: int, padding: int, groups: int
) -> Tensor:
    """-> [C_in, R, kt, F]."""
    kernels = _by_channel(kernels, groups)
    output_padding = bins_in - ((dy.shape[-1] - 1) * stride - 2 * padding + kernels.shape[3])
    geometry = dict(stride=(1, stride), padding=(0, padding), output_padding=(0, output_padding))
    folded = dy.reshape(1, len(kernels), 1, dy.shape[-1])
    dx = F.conv_transpose2d(folded, kernels, groups=len(kernels), **geometry)
    return dx.view(groups, -1, *dx.shape[2:])


def _depthwise_kernel_grad(
    dy: Tensor, frames: Tensor, kt: int, kf: int, stride: int, padding: int, groups: int
) -> Tensor:
    """G(t), [R, C, kt, kf]: the input convolved with dy as its (dilated) kernel."""
    folded, as_kernel = _fold(frames, kt), dy.reshape(-1, 1, 1, dy.shape[-1])
    grads = F.conv2d(folded, as_kernel, None, 1, (0, padding), (1, stride), len(as_kernel))[0, ..., :kf]
    return grads.unflatten(0, (groups, -1)).transpose(0, 1)


def _by_channel(kernels: Tensor, groups: int) -> Tensor:
    """[R * C, 1, kt, kf] -> [C * R, 1, kt, kf]."""
    return kernels.unflatten(0, (-1, groups)).transpose(0, 1).reshape(kernels.shape)


def _fold(frames: Tensor, kt: int) -> Tensor:
    """-> [1, C * R, kt, F], a view if kt == 1."""
    return frames.unfold(1, kt, 1).permute(0, 1, 3, 2).reshape(1, -1, kt, frames.shape[-1])


def _matmul(frames: Tensor, kernels: Tensor, stride: int, padding: int, groups: int) -> Tensor:
    """-> [C_out, R, F_out]."""
    kt, kf = kernels.shape[2:]
    patches = _patches(frames, kt, kf, stride, padding, groups)
    y = torch.bmm(kernels.view(len(patches), -1, patches.shape[1]), patches)
    return y.view(len(patches) // groups, -1, y.shape[-1]).transpose(0, 1)


def _matmul_input_grad(
    dy: Tensor, kernels: Tensor, bins_in: int, stride: int, padding: int, groups: int
) -> Tensor:
    """-> [C_in, R, kt, F]."""
    c_in, kt, kf = kernels.shape[1:]
    _, rows, bins = dy.shape
    transposed = kernels.view(rows * groups, -1, c_in * kt * kf).transpose(1, 2)
    dy = dy.transpose(0, 1).reshape(rows * groups, -1, bins)
    patches = torch.bmm(transposed, dy).view(rows, -1, kt, kf, bins).transpose(0, 1)
    if kf == stride == 1 and padding == 0:
        return patches[:, :, :, 0]
    dx = dy.new_zeros(*patches.shape[:3], bins_in + 2 * padding)
    for j in range(kf):
        dx[..., j : j + (bins - 1) * stride + 1 : stride] += patches[:, :, :, j]
    return dx[..., padding : padding + bins_in]


def _matmul_kernel_grad(
    dy: Tensor, frames: Tensor, kt: int, kf: int, stride: int, padding: int, groups: int
) -> Tensor:
    """G(t), [R * g, C_out/g, C_in/g * kt * kf]."""
    patches = _patches(frames, kt, kf, stride, padding, groups)
    dy = dy.transpose(0, 1).reshape(len(patches), -1, dy.shape[-1])
    return torch.bmm(dy, patches.transpose(1, 2))


def _patches(frames: Tensor, kt: int, kf: int, stride: int, padding: int, groups: int) -> Tensor:
    """-> [R * g, C_in/g * kt * kf, F_out], a view if pointwise and g == 1."""
    if kt == kf == stride == 1 and not padding:
        return frames.transpose(0, 1).reshape(frames.shape[1] * groups, -1, frames.shape[2])
    if padding:
        frames = F.pad(frames, (padding, padding))
    patches = frames.unfold(1, kt, 1).unfold(2, kf, stride)  # [C, R, F_out, kt, kf]
    patches = patches.permute(1, 0, 3, 4, 2)
    return patches.reshape(len(patches) * groups, -1, patches.shape[-1])
