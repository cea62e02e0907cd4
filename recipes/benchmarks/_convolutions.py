"""Layers of AdaptCRN and five ways to compute an adaptive convolution, for `recipes.benchmark adaptive_conv`."""

from __future__ import annotations

from dataclasses import dataclass

CANDIDATES = 8  # K
WIDTH = 16  # channels inside AdaptCRN
OURS, PLAIN = "ours", "(d) plain"


@dataclass(frozen=True)
class Layer:
    name: str
    c_in: int
    c_out: int
    taps: tuple[int, int]
    bins: int
    groups: int = 1
    stride: int = 1
    padding: int = 0
    transposed: bool = False
    count: int = 1  # how often the network has it


def _depthwise(name: str, bins: int, channels: int = WIDTH, transposed: bool = False) -> Layer:
    return Layer(name, channels, channels, (1, 5), bins, channels, stride=2, padding=2, transposed=transposed)


def _pointwise(c_in: int, c_out: int, bins: int, count: int = 1) -> Layer:
    return Layer(f"pointwise {c_in}-{c_out}, {bins} bins", c_in, c_out, (1, 1), bins, count=count)


ADAPTCRN = [
    _depthwise("encoder 1 depthwise", 129, channels=9),
    _depthwise("encoder 2 depthwise", 65),
    Layer("depthwise 3x3", WIDTH, WIDTH, (3, 3), 33, WIDTH, padding=1, count=6),
    _depthwise("decoder 4 depthwise", 33, transposed=True),
    _depthwise("decoder 5 depthwise", 65, transposed=True),
    _pointwise(9, WIDTH, 65),
    _pointwise(WIDTH, WIDTH, 65, count=3),
    _pointwise(WIDTH, WIDTH, 33, count=14),
    _pointwise(WIDTH, 4, 129),
    _pointwise(4, 1, 129),
]
DENSE = [
    Layer("dense 64-32 3x3", 64, 32, (3, 3), 65, padding=1),
    Layer("dense 32-32 2x5, stride 2", 32, 32, (2, 5), 129, stride=2, padding=2),
]


@dataclass(frozen=True)
class Setting:
    """How much goes through the layers; without a backward pass the layers see one frame and its past."""

    name: str
    layers: list[Layer]
    batch: int
    frames: int
    repetitions: int
    backward: bool = True


# The candidates: x [B, C, T, F] with the past in front of it, attention [B, T, K], weight [K, ...], bias -> y


def ours(layer: Layer, x, attention, weight, bias):
    import kernels

    geometry = dict(stride=layer.stride, padding=layer.padding, groups=layer.groups)
    if layer.transposed:
        return kernels.adaptive_conv_transpose2d(x, attention, weight, bias, **geometry)
    past, now = x[:, :, : layer.taps[0] - 1], x[:, :, layer.taps[0] - 1 :]
    return kernels.adaptive_conv2d(now, attention, weight, bias, past=past, **geometry)


def unfold_einsum(layer: Layer, x, attention, weight, bias):
    from kernels import naive

    if layer.transposed:
        arguments = (layer.stride, layer.padding, 0, layer.groups)
        return naive.conv_transpose2d(x, attention, weight, bias, *arguments)
    return naive.conv2d(x, attention, weight, bias, layer.stride, layer.padding, layer.groups)


def k_convolutions(layer: Layer, x, attention, weight, bias):
    y = bias[:, None, None]
    for k, kernel in enumerate(weight):
        y = y + attention[:, None, :, k, None] * plain_convolution(layer, x, kernel)
    return y


def frames_in_groups(layer: Layer, x, attention, weight, bias):
    batch, frames, k = attention.shape
    folded = x.unfold(2, layer.taps[0], 1).permute(0, 2, 1, 4, 3)  # [B, T, C, kt, F]
    folded = folded.reshape(1, -1, *folded.shape[3:])
    kernels = (attention.reshape(-1, k) @ weight.reshape(k, -1)).view(-1, *weight.shape[2:])
    y = plain_convolution(layer, folded, kernels, groups=batch * frames * layer.groups)
    return y.view(batch, frames, layer.c_out, -1).transpose(1, 2) + bias[:, None, None]


def plain(layer: Layer, x, attention, weight, bias):
    return plain_convolution(layer, x, weight[0], bias)


def plain_convolution(layer: Layer, x, kernel, bias=None, groups: int | None = None):
    import torch.nn.functional as F

    conv = F.conv_transpose2d if layer.transposed else F.conv2d
    geometry = dict(stride=(1, layer.stride), padding=(0, layer.padding))
    return conv(x, kernel, bias, groups=groups or layer.groups, **geometry)


TRAINING = {
    "(a) unfold, einsum": unfold_einsum,
    "(b) K convolutions": k_convolutions,
    "(c) grouped": frames_in_groups,
    PLAIN: plain,
    OURS: ours,
}
STREAMING = {PLAIN: plain, OURS: ours}


def make_inputs(layer: Layer, setting: Setting, device: str) -> list:
    """x with the past in front, attention, weight, bias, as leaves that want gradients when the setting does."""
    import torch

    frames = setting.frames + layer.taps[0] - 1
    pair = (layer.c_in, layer.c_out) if layer.transposed else (layer.c_out, layer.c_in)
    tensors = [
        torch.randn(setting.batch, layer.c_in, frames, layer.bins),
        torch.randn(setting.batch, setting.frames, CANDIDATES).softmax(-1),
        torch.randn(CANDIDATES, pair[0], pair[1] // layer.groups, *layer.taps) * 0.1,
        torch.randn(layer.c_out),
    ]
    return [t.to(device).requires_grad_(setting.backward) for t in tensors]
