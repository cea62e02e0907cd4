"""Adaptive convolution: every frame gets its own kernel, a weighted sum of K candidate kernels.

    W(t) = sum_k A_k(t) W_k,    A(t) = softmax(attention network on the frame energies up to t)

Source: "Adaptive Convolution for CNN-based Speech Enhancement Models" (arXiv 2502.14224), Section III.

`KernelBank` holds the candidates of one layer, `JointAttention` selects among them for one or several layers,
`AdaptiveConv2d` joins both into a drop-in for `nn.Conv2d`, which `enhance.adapt_convolutions` swaps into a network:

    network = adapt_convolutions(network, num_kernels=8)

Tensors are [batch, channel, time, frequency]. Everything is causal in time: a layer pads kt - 1 frames of
the past and none of the future, whatever time padding the convolution it replaces had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import adaptive_conv2d, adaptive_conv_transpose2d, gru

ATTENTION_KINDS = ("single", "multi", "gru")
MULTI_FRAME_TAPS = 3


def slide(past: Tensor | None, x: Tensor, length: int) -> Tensor:
    """The last `length` frames of x [..., T, F] after past [..., length, F]; no past means zeros."""
    if past is None:
        past = x.new_zeros(*x.shape[:-2], length, x.shape[-1])
    return torch.cat([past, x], -2)[..., x.shape[-2] :, :]


class KernelAttention(nn.Module):
    """From the energy of each channel in each frame to selection logits.

    Kinds: "single" looks at one frame (FC - ReLU - FC), "multi" at three (Conv1d - ReLU - FC), "gru" at the
    whole past (GRU - FC).

    Args:
        channels: input channels C.
        outputs: number of logits per frame.
        hidden: width of the attention network.
        kind: "single", "multi" or "gru".
    """

    def __init__(self, channels: int, outputs: int, hidden: int = 32, kind: str = "gru"):
        super().__init__()
        if kind not in ATTENTION_KINDS:
            raise ValueError(f"attention is {kind!r}; it must be one of {', '.join(ATTENTION_KINDS)}")
        self.kind = kind
        if kind == "single":
            self.body = nn.Linear(channels, hidden)
        elif kind == "multi":
            self.body = nn.Conv1d(channels, hidden, MULTI_FRAME_TAPS)
        else:
            self.body = nn.GRU(channels, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, energy: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """energy [B, T, C], memory of earlier frames (None: a fresh start) -> logits [B, T, outputs], memory."""
        if self.kind == "single":
            return self.head(self.body(energy).relu()), None
        if self.kind == "multi":
            past = slide(memory, energy[:, :0], MULTI_FRAME_TAPS - 1)
            hidden = self.body(torch.cat([past, energy], 1).transpose(1, 2)).relu().transpose(1, 2)
            return self.head(hidden), slide(past, energy, MULTI_FRAME_TAPS - 1)
        if gru.pays(self, energy, memory):
            hidden, last = gru.grouped_gru(energy.permute(1, 2, 0), [self.body])
            return self.head(hidden.permute(2, 0, 1)), last
        hidden, last = self.body(energy, None if memory is None else memory[None])
        return self.head(hidden), last[0]


class Selection(NamedTuple):
    """What an attention network decided for each frame.

    kernels: per layer, softmaxed weights [B, T, K] of its candidates.
    gates: per gated tensor, sigmoid factors [B, C, T, 1].
    memory: state for the next chunk; None when the network looks at single frames only.
    """

    kernels: tuple[Tensor, ...]
    gates: tuple[Tensor, ...]
    memory: Tensor | None


class JointAttention(nn.Module):
    """One attention network that selects kernels for several layers, optionally with channel gates.

    Args:
        channels: channels of the tensor that is looked at.
        num_layers: layers to select kernels for.
        num_kernels: candidates K of each layer.
        gates: channel counts of the tensors to gate (channel attention); empty for none.
        hidden, kind: see `KernelAttention`.
    """

    def __init__(
        self,
        channels: int,
        num_layers: int = 1,
        num_kernels: int = 8,
        gates: Sequence[int] = (),
        hidden: int = 32,
        kind: str = "gru",
    ):
        super().__init__()
        self.num_layers, self.num_kernels, self.gates = num_layers, num_kernels, tuple(gates)
        self.network = KernelAttention(channels, num_layers * num_kernels + sum(gates), hidden, kind)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Selection:
        """x [B, C, T, F] -> Selection; the energy is the mean of x^2 over frequency (Eq. of P(c, t))."""
        return self.select(x.square().mean(-1).transpose(1, 2), memory)

    def select(self, energy: Tensor, memory: Tensor | None = None) -> Selection:
        """Energies [B, T, C] -> Selection."""
        logits, memory = self.network(energy, memory)
        kernels, gates = logits.split([self.num_layers * self.num_kernels, sum(self.gates)], -1)
        kernels = kernels.unflatten(-1, (self.num_layers, self.num_kernels)).softmax(-1)
        gates = gates.sigmoid().transpose(1, 2)[..., None]
        return Selection(kernels.unbind(2), gates.split(self.gates, 1) if self.gates else (), memory)


class KernelBank(nn.Module):
    """The candidate kernels of one layer and their application.

    Covers depthwise, pointwise, grouped and dense convolution, stride and padding in frequency, dilation in
    time, and the frequency transpose with one time tap. With `num_kernels=1` it is a plain causal
    convolution and takes no attention.

    Args:
        kernel_size: (kt, kf), taps in time and frequency.
        stride, padding, output_padding: in frequency.
        dilation: in time.
        transposed: transpose in frequency; needs kt = 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int = 1,
        num_kernels: int = 8,
        transposed: bool = False,
        output_padding: int = 0,
    ):
        super().__init__()
        if transposed and kernel_size[0] != 1:
            raise ValueError(
                f"a transposed layer with {kernel_size[0]} time taps has no unambiguous frame to take its kernel "
                "from; write it as a convolution or use one time tap"
            )
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, tuple(kernel_size)
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.groups, self.dilation, self.transposed = groups, dilation, transposed
        self.context = (kernel_size[0] - 1) * dilation  # frames of the past that the next output needs
        first, second = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.empty(num_kernels, first, second // groups, *kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each candidate as `nn.Conv2d` would draw it."""
        bound = self.weight[0, 0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def num_kernels(self) -> int:
        return self.weight.shape[0]

    def forward(self, x: Tensor, attention: Tensor | None = None, past: Tensor | None = None) -> Tensor:
        """x [B, C_in, T, F], attention [B, T, K], past [B, C_in, context, F] or None -> [B, C_out, T, F_out]."""
        if self.num_kernels == 1:
            return self._plain(x, past)
        if self.transposed:
            return adaptive_conv_transpose2d(
                x, attention, self.weight, self.bias, stride=self.stride, padding=self.padding,
                output_padding=self.output_padding, groups=self.groups,
            )  # fmt: skip
        weight = self.weight
        if self.dilation > 1:
            # Dilated taps become input channels of kernels with one time tap.
            x, past = self._taps(x, past), None
            weight = weight.flatten(2, 3).unsqueeze(3)
        return adaptive_conv2d(
            x,
            attention,
            weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            past=past,
        )

    def _taps(self, x: Tensor, past: Tensor | None) -> Tensor:
        """[B, C, T, F] -> [B, C * kt, T, F]: each channel next to its own past."""
        x, frames = self._with_past(x, past), x.shape[2]
        starts = range(0, self.context + 1, self.dilation)
        return torch.stack([x[:, :, start : start + frames] for start in starts], 2).flatten(1, 2)

    def _with_past(self, x: Tensor, past: Tensor | None) -> Tensor:
        if not self.context:
            return x
        return F.pad(x, (0, 0, self.context, 0)) if past is None else torch.cat([past, x], 2)

    def _plain(self, x: Tensor, past: Tensor | None) -> Tensor:
        if self.transposed:
            return F.conv_transpose2d(
                x,
                self.weight[0],
                self.bias,
                (1, self.stride),
                (0, self.padding),
                (0, self.output_padding),
                self.groups,
            )
        return F.conv2d(
            self._with_past(x, past), self.weight[0], self.bias, (1, self.stride), (0, self.padding),
            (self.dilation, 1), self.groups,
        )  # fmt: skip

    @torch.no_grad()
    def absorb(self, norm: nn.BatchNorm2d) -> None:
        """Take over the batch normalisation that follows this layer; exact, since every W_k scales alike."""
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = -norm.running_mean if self.bias is None else self.bias - norm.running_mean
        self.bias = nn.Parameter(norm.bias + bias * scale)
        if self.transposed:  # weight [K, C_in, C_out / g, 1, kf]: output channel = (group, second index)
            scale = scale.view(self.groups, -1).repeat_interleave(self.in_channels // self.groups, 0)
            self.weight.mul_(scale[:, :, None, None])
        else:
            self.weight.mul_(scale[:, None, None, None])


class AdaptiveConv2d(nn.Module):
    """Adaptive counterpart of `nn.Conv2d`, causal in time: x [B, C_in, T, F] -> [B, C_out, T, F_out].

    Args:
        in_channels, out_channels, kernel_size, stride, padding, groups, bias: as in `nn.Conv2d`, an integer or
            a (time, frequency) pair. The time stride must be 1. The time padding is not read: the layer
            always pads (kt - 1) * dilation past frames, so the number of frames is kept.
        dilation: in time.
        num_kernels: candidates K.
        attention: "single", "multi" or "gru", see `KernelAttention`.
        channel_attention: also gate input and output channels.
        hidden: width of the attention network.

    Raises:
        ValueError: for a time stride other than 1 or a dilation in frequency.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        num_kernels: int = 8,
        attention: str = "gru",
        channel_attention: bool = False,
        hidden: int = 32,
        transposed: bool = False,
        output_padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        stride = _pair(stride) if not isinstance(stride, int) else (1, stride)
        dilation = _pair(dilation) if not isinstance(dilation, int) else (dilation, 1)
        if stride[0] != 1:
            raise ValueError(
                f"time stride is {stride[0]}; adaptive convolution keeps the frame rate, use stride (1, s)"
            )
        if dilation[1] != 1:
            raise ValueError(
                f"frequency dilation is {dilation[1]}; only time may be dilated, use dilation (d, 1)"
            )
        self.bank = KernelBank(
            in_channels, out_channels, _pair(kernel_size), stride[1], _pair(padding)[1], groups, bias, dilation[0],
            num_kernels, transposed, _pair(output_padding)[1],
        )  # fmt: skip
        gates = (in_channels, out_channels) if channel_attention else ()
        self.attention = JointAttention(in_channels, 1, num_kernels, gates, hidden, attention)

    def forward(self, x: Tensor) -> Tensor:
        """A whole utterance at once."""
        return self.stream(x)[0]

    def stream(self, x: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """A chunk of frames and the state after the one before (None at the start) -> output, state."""
        past, memory = state or (None, None)
        selection = self.attention(x, memory)
        if selection.gates:
            x = x * selection.gates[0]
        y = self.bank(x, selection.kernels[0], past)
        if selection.gates:
            y = y * selection.gates[1]
        return y, (slide(past, x, self.bank.context), selection.memory)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
