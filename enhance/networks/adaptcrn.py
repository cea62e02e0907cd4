"""AdaptCRN: an ultra-light streaming speech enhancement network built from adaptive convolution.

Source: "Adaptive Convolution for CNN-based Speech Enhancement Models" (arXiv 2502.14224), Section IV.

    spectrum -> log-magnitude and compressed spectrum in ERB bands -> 5 encoder blocks -> 2 dual-path RNNs
             -> 5 decoder blocks with skip connections -> magnitude mask -> spectrum
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from enhance.networks.adaptive import JointAttention, KernelBank, slide
from enhance.networks.bands import ErbBands, compress, magnitude, subbands
from enhance.networks.enhancer import Enhancer
from enhance.networks.layers import DualPathRNN, run_stages
from enhance.networks.overlap_add import State
from kernels.frame_norm import frame_norm
from kernels.norm import norm_prelu


@dataclass(frozen=True)
class AdaptCRNConfig:
    """The published network is the default: 134,513 parameters.

    Attributes:
        num_kernels: candidates K of each adaptive layer; 1 gives plain convolutions (29,440 parameters).
        attention: "gru", "multi" or "single" (see `enhance.networks.adaptive.KernelAttention`).
        channel_attention: gate the input and output channels of each block (124,679 parameters without).
        attention_hidden: width of the attention networks.
        channels: width of the blocks.
        mask_limit: largest gain of the mask; a little over 1 lets the sigmoid reach 1 (MetricGAN+ uses 1.2).
        log_floor: magnitude floor of the logarithm, below the noise of 16-bit audio.
    """

    architecture: str = "adaptcrn"
    num_kernels: int = 8
    attention: str = "gru"
    channel_attention: bool = True
    attention_hidden: int = 32
    channels: int = 16
    low_bins: int = 65
    bands: int = 64
    mask_limit: float = 1.2
    log_floor: float = 1e-4


class AdaptiveBlock(nn.Module):
    """LayerNorm - depthwise - BN - PReLU - pointwise - GELU - pointwise - BN - PReLU, one attention for all three.

    Args:
        channels: (in, middle, out) channels.
        width: bands F at the input.
        kernel_size: (time, frequency) of the depthwise layer.
        stride: in frequency; 2 with `transposed` doubles the bands instead of halving them.
    """

    def __init__(
        self,
        channels: tuple[int, int, int],
        width: int,
        kernel_size: tuple[int, int],
        config: AdaptCRNConfig,
        stride: int = 1,
        transposed: bool = False,
    ):
        super().__init__()
        before, middle, after = channels
        kernels = config.num_kernels
        self.norm = nn.LayerNorm((before, width))
        self.attention = None
        if kernels > 1:
            gates = (before, after) if config.channel_attention else ()
            self.attention = JointAttention(
                before, 3, kernels, gates, config.attention_hidden, config.attention
            )
        self.depthwise = KernelBank(
            before,
            before,
            kernel_size,
            stride,
            kernel_size[1] // 2,
            before,
            num_kernels=kernels,
            transposed=transposed,
        )
        self.depthwise_norm = nn.BatchNorm2d(before)
        self.depthwise_activation = nn.PReLU(before)
        self.expand = KernelBank(before, middle, (1, 1), num_kernels=kernels)
        self.project = KernelBank(middle, after, (1, 1), num_kernels=kernels)
        self.project_norm = nn.BatchNorm2d(after)
        self.project_activation = nn.PReLU(after)
        self.residual = stride == 1 and before == after

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x [B, C, T, F] and the block's part of the state -> output, the state after the chunk."""
        y, energy = frame_norm(x, self.norm)
        kernels, gates, after = (None, None, None), (), {}
        if self.attention is not None:
            kernels, gates, after["attention"] = self.attention.select(energy, state.get("attention"))
        if gates:
            y = y * gates[0]
        if self.depthwise.context:
            after["past"] = slide(state.get("past"), y, self.depthwise.context)
        y = self.depthwise(y, kernels[0], state.get("past"))
        y = norm_prelu(y, self.depthwise_norm, self.depthwise_activation)
        y = nn.functional.gelu(self.expand(y, kernels[1]))
        y = self.project(y, kernels[2])
        y = norm_prelu(y, self.project_norm, self.project_activation, gates[1] if gates else None)
        return (x + y if self.residual else y), after


class AdaptCRN(Enhancer):
    """See the module's docstring; spectra are [batch, frames, 257, 2] at 16 kHz with a hop of 16 ms."""

    compact = "adaptcrn_compact"

    def __init__(self, config: AdaptCRNConfig = AdaptCRNConfig()):
        super().__init__()
        self.config = self._hub_mixin_config = config
        c = config.channels
        self.bands = ErbBands(config.low_bins, config.bands, self.fft_size // 2 + 1, self.sampling_rate)
        wide = config.low_bins + config.bands  # 129 bands in, then 65 and 33
        half, quarter = wide // 2 + 1, wide // 4 + 1
        same = (c, c, c)
        self.encoder = nn.ModuleList([
            AdaptiveBlock((9, c, c), wide, (1, 5), config, stride=2),
            AdaptiveBlock(same, half, (1, 5), config, stride=2),
            *(AdaptiveBlock(same, quarter, (3, 3), config) for _ in range(3)),
        ])  # fmt: skip
        self.recurrent = nn.ModuleList(DualPathRNN(c, quarter) for _ in range(2))
        self.decoder = nn.ModuleList([
            *(AdaptiveBlock(same, quarter, (3, 3), config) for _ in range(3)),
            AdaptiveBlock(same, quarter, (1, 5), config, stride=2, transposed=True),
            AdaptiveBlock((c, 4, 1), half, (1, 5), config, stride=2, transposed=True),
        ])  # fmt: skip
        self.slope = nn.Parameter(torch.ones(wide))

    def forward(self, spectrum: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Spectrum [B, T, 257, 2] and the state before it -> enhanced spectrum, the state after it."""
        mask, state = self.mask(spectrum, state)
        return spectrum * mask[..., None], state

    def mask(self, spectrum: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Magnitude mask [B, T, 257] between 0 and `mask_limit`, and the state after the chunk."""
        x, state = run_stages(self, self.features(spectrum), state)
        mask = self.config.mask_limit * torch.sigmoid(self.slope * x[:, 0])
        return self.bands.spread(mask), state

    def features(self, spectrum: Tensor) -> Tensor:
        """Spectrum [B, T, 257, 2] -> [B, 9, T, 129]: log10 |X| and X / |X|^0.7 in bands, with neighbours."""
        log = (self.bands.merge(magnitude(spectrum)) + self.config.log_floor).log10()
        parts = self.bands.merge(compress(spectrum, 0.3).movedim(-1, 1))
        return subbands(torch.cat([log[:, None], parts], 1))
