"""GTCRN with plain or adaptive convolutions: a second network on the same layers.

Source: "GTCRN: A Speech Enhancement Model Requiring Ultralow Computational Resources" (Rong et al., ICASSP
2024); the adaptive version follows arXiv 2502.14224, which swaps its convolutions. Every convolution looks
at the past only; the decoder's time-transposed convolutions are written as the convolutions they equal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from enhance.networks.adaptive import JointAttention, KernelBank, slide
from enhance.networks.bands import ErbBands, magnitude, subbands
from enhance.networks.enhancer import Enhancer
from enhance.networks.layers import DualPathRNN, run_stages
from enhance.networks.overlap_add import State
from kernels.norm import norm_prelu

DILATIONS = (1, 2, 5)  # in time, of the three blocks at the lowest resolution


@dataclass(frozen=True)
class GTCRNConfig:
    """The published network is the default; `num_kernels=8` makes its convolutions adaptive.

    Attributes:
        num_kernels: candidates K of each convolution; 1 gives plain ones.
        attention, attention_hidden: see `enhance.networks.adaptive.KernelAttention`.
        channels: width.
    """

    architecture: str = "gtcrn"
    num_kernels: int = 1
    attention: str = "gru"
    attention_hidden: int = 32
    channels: int = 16
    low_bins: int = 65
    bands: int = 64


def _attention(channels: int, layers: int, config: GTCRNConfig) -> JointAttention | None:
    if config.num_kernels == 1:
        return None
    hidden, kind = config.attention_hidden, config.attention
    return JointAttention(channels, layers, config.num_kernels, hidden=hidden, kind=kind)


def _select(attention: JointAttention | None, x: Tensor, memory: Tensor | None):
    """Kernel weights per layer and the memory; (None, None, None) stands for plain layers."""
    if attention is None:
        return (None, None, None), None
    selection = attention(x, memory)
    return selection.kernels, selection.memory


class ResampleBlock(nn.Module):
    """Convolution that halves or doubles the bands - BN - PReLU, or Tanh in the last block."""

    def __init__(
        self, channels: tuple[int, int], groups: int, config: GTCRNConfig, transposed=False, last=False
    ):
        super().__init__()
        before, after = channels
        self.attention = _attention(before, 1, config)
        self.conv = KernelBank(
            before, after, (1, 5), 2, 2, groups, num_kernels=config.num_kernels, transposed=transposed
        )
        self.norm = nn.BatchNorm2d(after)
        self.activation = nn.Tanh() if last else nn.PReLU()

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        kernels, memory = _select(self.attention, x, state.get("attention"))
        y = self.conv(x, kernels[0])
        if isinstance(self.activation, nn.PReLU):
            y = norm_prelu(y, self.norm, self.activation)
        else:
            y = self.activation(self.norm(y))
        return y, {"attention": memory}


class GroupedTemporalBlock(nn.Module):
    """Half of the channels pass a dilated separable convolution and temporal attention, half pass untouched."""

    def __init__(self, channels: int, dilation: int, config: GTCRNConfig):
        super().__init__()
        half, kernels = channels // 2, config.num_kernels
        self.attention = _attention(half, 3, config)
        self.expand = KernelBank(3 * half, channels, (1, 1), num_kernels=kernels)
        self.expand_norm = nn.BatchNorm2d(channels)
        self.expand_activation = nn.PReLU()
        self.depthwise = KernelBank(
            channels, channels, (3, 3), 1, 1, channels, dilation=dilation, num_kernels=kernels
        )
        self.depthwise_norm = nn.BatchNorm2d(channels)
        self.depthwise_activation = nn.PReLU()
        self.project = KernelBank(channels, half, (1, 1), num_kernels=kernels)
        self.project_norm = nn.BatchNorm2d(half)
        self.temporal = nn.GRU(half, channels, batch_first=True)
        self.temporal_linear = nn.Linear(channels, half)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, untouched = x.chunk(2, 1)
        kernels, memory = _select(self.attention, y, state.get("attention"))
        y = norm_prelu(self.expand(subbands(y), kernels[0]), self.expand_norm, self.expand_activation)
        past = slide(state.get("past"), y, self.depthwise.context)
        y = self.depthwise(y, kernels[1], state.get("past"))
        y = norm_prelu(y, self.depthwise_norm, self.depthwise_activation)
        y = self.project_norm(self.project(y, kernels[2]))
        y, temporal = self._attend(y, state.get("temporal"))
        mixed = torch.stack([y, untouched], 2).flatten(
            1, 2
        )  # interleaved, so the next block swaps the halves
        return mixed, {"attention": memory, "past": past, "temporal": temporal}

    def _attend(self, y: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Temporal recurrent attention: one sigmoid gain per channel and frame."""
        energy = y.square().mean(-1).transpose(1, 2)
        hidden, last = self.temporal(energy, None if memory is None else memory[None])
        return y * self.temporal_linear(hidden).sigmoid().transpose(1, 2)[..., None], last[0]


class GTCRN(Enhancer):
    """See the module's docstring; spectra are [batch, frames, 257, 2] at 16 kHz with a hop of 16 ms."""

    compact = "gtcrn_compact"

    def __init__(self, config: GTCRNConfig = GTCRNConfig()):
        super().__init__()
        self.config = self._hub_mixin_config = config
        c = config.channels
        self.bands = ErbBands(config.low_bins, config.bands, self.fft_size // 2 + 1, self.sampling_rate)
        self.encoder = nn.ModuleList([
            ResampleBlock((9, c), 1, config),
            ResampleBlock((c, c), 2, config),
            *(GroupedTemporalBlock(c, dilation, config) for dilation in DILATIONS),
        ])  # fmt: skip
        width = (config.low_bins + config.bands) // 4 + 1
        self.recurrent = nn.ModuleList(DualPathRNN(c, width) for _ in range(2))
        self.decoder = nn.ModuleList([
            *(GroupedTemporalBlock(c, dilation, config) for dilation in reversed(DILATIONS)),
            ResampleBlock((c, c), 2, config, transposed=True),
            ResampleBlock((c, 2), 1, config, transposed=True, last=True),
        ])  # fmt: skip

    def forward(self, spectrum: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Spectrum [B, T, 257, 2] and the state before it -> spectrum under a complex mask, the state after it."""
        parts = torch.cat([magnitude(spectrum)[:, None], spectrum.movedim(-1, 1)], 1)
        x, state = run_stages(self, subbands(self.bands.merge(parts)), state)
        mask = self.bands.spread(x).movedim(1, -1).contiguous()
        return torch.view_as_real(
            torch.view_as_complex(spectrum.contiguous()) * torch.view_as_complex(mask)
        ), state
