"""Adaptive convolution for the networks of others: swap the 2-D convolutions of a network in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from enhance.networks.adaptive import AdaptiveConv2d


def _is_adaptable(layer: nn.Module) -> bool:
    """Whether the layer keeps the frame count, has no frequency dilation and pads with zeros."""
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) or isinstance(layer.padding, str):
        return False
    taps = (layer.kernel_size[0] - 1) * layer.dilation[0]
    return (
        layer.stride[0] == 1
        and 2 * layer.padding[0] == taps
        and layer.dilation[1] == 1
        and layer.padding_mode == "zeros"
        and not (isinstance(layer, nn.ConvTranspose2d) and taps)
    )


@torch.no_grad()
def _adapted(layer: nn.Conv2d | nn.ConvTranspose2d, **options) -> AdaptiveConv2d:
    transposed = isinstance(layer, nn.ConvTranspose2d)
    adaptive = AdaptiveConv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        layer.groups, layer.bias is not None, transposed=transposed,
        output_padding=layer.output_padding if transposed else 0, **options,
    )  # fmt: skip
    adaptive.bank.weight.copy_(layer.weight)
    if layer.bias is not None:
        adaptive.bank.bias.copy_(layer.bias)
    return adaptive.to(layer.weight.device)


def adapt_convolutions(
    network: nn.Module, select: Callable[[str, nn.Module], bool] = lambda name, layer: True, **options
) -> nn.Module:
    """Swap the 2-D convolutions of a network for adaptive ones, in place.

    Every candidate starts as the layer's own kernel, so a trained network keeps its function (except that
    layers with several time taps become causal), and the attention learns to tell the candidates apart.
    Layers that change the frame count, dilate in frequency or pad with anything but zeros stay as they are.

    Args:
        network: works on [batch, channel, time, frequency].
        select: `select(name, layer)` says which layers to swap; all by default.
        options: `num_kernels`, `attention`, `channel_attention`, `hidden` of `AdaptiveConv2d`.

    Raises:
        ValueError: when no layer could be swapped.
    """
    layers = [(name, layer) for name, layer in network.named_modules() if name and _is_adaptable(layer)]
    found = [(name, layer) for name, layer in layers if select(name, layer)]
    if not found:
        raise ValueError(
            "no convolution could be swapped: needed is an nn.Conv2d inside the network with time stride 1, 'same' "
            "time padding and no frequency dilation, or an nn.ConvTranspose2d with one time tap"
        )
    for name, layer in found:
        parent, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, _adapted(layer, **options))
    return network
