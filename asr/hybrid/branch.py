"""The CTC branch: a light draft of the text from the encoder's states, the prior of dLLM-ASR (arXiv 2601.17902)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.hybrid.encoder import EncoderLayer, within


@dataclass
class BranchSizes:
    """Sizes of the branch.

    Args:
        units: of the vocabulary, the blank included.
        layers: Transformer layers of its own.
        stride: encoder frames to a frame of the branch.
        mixes: True listens to a learned mixture of all encoder states (Peters et al. 2018, Sec. 3.2), whose lower
            layers still hold the sounds; False to the last alone.
    """

    units: int = 512
    layers: int = 1
    stride: int = 2
    mixes: bool = True


class CTCBranch(nn.Module):
    """Encoder states in, log-probabilities over the units out."""

    def __init__(self, sizes: BranchSizes, width: int, heads: int, feed_forward: int, encoder_layers: int):
        super().__init__()
        self.sizes = sizes
        self.mixture = nn.Parameter(torch.zeros(encoder_layers + 1)) if sizes.mixes else None
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(encoder_layers + 1 if sizes.mixes else 1))
        self.gather = nn.Conv1d(width, width, 2 * sizes.stride + 1, stride=sizes.stride, padding=sizes.stride)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feed_forward, 0.1) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, sizes.units)

    def forward(self, states: list[Tensor], lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States [batch, frames, width] and lengths [batch] -> log-probabilities [batch, frames / stride, units]."""
        return self.read(self.mix(states), lengths)

    def mix(self, states: list[Tensor]) -> Tensor:
        """What the branch listens to [batch, frames, width], of the encoder's states."""
        if self.mixture is None:
            return self.norms[0](states[-1])
        shares = self.mixture.softmax(0)
        return sum(share * norm(state) for share, norm, state in zip(shares, self.norms, states, strict=True))

    def read(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `forward` of what `mix` gives."""
        x = x * within(x.shape[1], lengths).unsqueeze(-1)
        x = F.gelu(self.gather(x.transpose(1, 2))).transpose(1, 2)
        lengths = (lengths + self.sizes.stride - 1) // self.sizes.stride
        mask = None
        if int(lengths.min()) < x.shape[1]:
            mask = within(x.shape[1], lengths)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return F.log_softmax(self.head(self.norm(x)).float(), dim=-1), lengths
