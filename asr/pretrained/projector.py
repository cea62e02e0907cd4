"""From the encoder's frames to embeddings that the language model reads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.pretrained.config import ProjectorConfig


def blank_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """x [batch, frames, width] with zeros from each length [batch] on."""
    return x * (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[..., None]


def fill_up(x: Tensor, multiple: int) -> Tensor:
    """x [batch, frames, width] with zeros at the end, to a multiple of frames."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % multiple))


class ConvProjector(nn.Module):
    """Convolutions of kernel 3 and stride 2 with GELU, then a linear layer, as in dLLM-ASR.

    The paper goes from Whisper's 50 frames a second to 12.5 positions, which takes two of them (factor 4).
    """

    def __init__(self, width: int, out: int, config: ProjectorConfig):
        super().__init__()
        count = int(math.log2(config.factor))
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, 3, stride=2, padding=1) for _ in range(count))
        self.out = nn.Linear(width, out)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        for convolution in self.convolutions:
            x = blank_padding(x, lengths)
            x = F.gelu(convolution(x.transpose(1, 2)).transpose(1, 2))
            lengths = (lengths + 1) // 2
        return self.out(x), lengths


class StackProjector(nn.Module):
    """Neighbouring frames stacked, then two linear layers."""

    def __init__(self, width: int, out: int, config: ProjectorConfig):
        super().__init__()
        self.factor = config.factor
        self.layers = nn.Sequential(nn.Linear(width * config.factor, out), nn.GELU(), nn.Linear(out, out))

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = fill_up(blank_padding(x, lengths), self.factor)
        return self.layers(x.unflatten(1, (-1, self.factor)).flatten(2)), -(-lengths // self.factor)


class WindowProjector(nn.Module):
    """Window Q-Former: learned queries attend to each window of frames (SALMONN, arXiv 2310.13289, Sec. 3.1)."""

    def __init__(self, width: int, out: int, config: ProjectorConfig):
        super().__init__()
        self.factor, self.window = config.factor, config.window
        heads = max(1, width // 64)
        self.queries = nn.Parameter(torch.randn(config.window // config.factor, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.out = nn.Linear(width, out)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        windows = fill_up(x, self.window).unflatten(1, (-1, self.window))  # [batch, windows, window, width]
        batch, count, window, width = windows.shape
        frames = torch.arange(count * window, device=x.device).view(count, window)
        is_padding = (frames >= lengths[:, None, None]).flatten(0, 1)
        is_padding[:, 0] = False  # a window of nothing but padding is cut off below; it must only stay finite
        y = self.queries.expand(batch * count, -1, -1)
        for layer in self.layers:
            y = layer(y, windows.flatten(0, 1), memory_key_padding_mask=is_padding)
        return self.out(y.reshape(batch, -1, width)), -(-lengths // self.factor)


KINDS = {"conv": ConvProjector, "mlp": StackProjector, "qformer": WindowProjector}


def make_projector(width: int, out: int, config: ProjectorConfig) -> nn.Module:
    """Module from frames [batch, frames, width] and lengths [batch] to embeddings [batch, n, out] and lengths."""
    return KINDS[config.kind](width, out, config)
