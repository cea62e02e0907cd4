"""Whisper's speech encoder, run at the utterance's own length.

Whisper (Radford et al. 2022, arXiv 2212.04356, Sec. 2.2) pads every window to 30 seconds; most of that work is on
silence. Here an utterance is as long as it is and a batch is padded to its longest, with masks, so that a result
does not depend on what else is in the batch. The weights need some training to get used to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class EncoderSizes:
    """Sizes of the encoder; the defaults are Whisper tiny's. `longest` counts frames of 20 ms."""

    mels: int = 80
    width: int = 384
    heads: int = 6
    layers: int = 4
    feed_forward: int = 1536
    longest: int = 1500
    dropout: float = 0.0


FEW = 16  # queries for which the fused kernel is slower on a CPU than plain products
NOTHING = torch.zeros((), device="cpu")  # also where this is first imported for a model without memory


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention over [batch, heads, positions, size]; the mask is True where a key counts.

    On a CPU the fused kernel is several times slower than plain products in bfloat16 and for few queries. The plain
    ones take as few operations as they can: for a single query these cost more than the numbers.
    """
    on_cpu = query.device.type == "cpu"
    if not on_cpu or (query.dtype != torch.bfloat16 and query.shape[-2] > FEW):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if len(key) < len(query):  # several texts of one utterance
        key, value = (part.expand(len(query), -1, -1, -1) for part in (key, value))
    size, keys = query.shape[:-1], key.flatten(0, 1).transpose(1, 2)
    scores = torch.baddbmm(
        NOTHING.to(query.dtype), query.flatten(0, 1), keys, beta=0, alpha=query.shape[-1] ** -0.5
    )
    if mask is not None:
        scores = scores.view(*size, -1).masked_fill(~mask, -torch.inf).flatten(0, 1)
    return torch.bmm(scores.softmax(-1), value.flatten(0, 1)).view(*size, -1)


class Attention(nn.Module):
    """Multi-head attention with Whisper's biases: none on the keys."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """[batch, positions, width] -> [batch, heads, positions, size]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.key(x)), self.split(self.value(x))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [batch, heads, positions, size] of x, which attends to itself."""
        return self.split(self.query(x)), *self.keys_values(x)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries [batch, heads, n, size] on keys and values [batch, heads, m, size]: [batch, n, width]."""
        return self.out(attend(queries, keys, values, mask).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries of x [batch, n, width] on keys and values [batch, heads, m, size]."""
        return self.attend(self.split(self.query(x)), keys, values, mask)


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each after a LayerNorm and around a residual."""

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float = 0.0):
        super().__init__()
        self.attention_norm, self.out_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.GELU(), nn.Linear(feed_forward, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.dropout(self.attention.attend(*self.attention.project(self.attention_norm(x)), mask))
        return x + self.dropout(self.feed_forward(self.out_norm(x)))


class SpeechEncoder(nn.Module):
    """Log-mel frames of 10 ms in, states of 20 ms out."""

    def __init__(self, sizes: EncoderSizes):
        super().__init__()
        self.sizes = sizes
        self.first = nn.Conv1d(sizes.mels, sizes.width, 3, padding=1)
        self.second = nn.Conv1d(sizes.width, sizes.width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(sizes.longest, sizes.width), requires_grad=False)
        self.layers = nn.ModuleList(
            EncoderLayer(sizes.width, sizes.heads, sizes.feed_forward, sizes.dropout) for _ in range(sizes.layers)
        )
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """States of a batch.

        Args:
            features: Whisper's log-mel [batch, frames, mels], zeros behind each utterance's end.
            lengths: [batch] frames of each.

        Returns:
            what enters the first layer, what leaves each layer (the last normalised), each
            [batch, ceil(frames / 2), width]; and the lengths [batch] of the states.

        Raises:
            ValueError: an utterance is longer than `longest`.
        """
        lengths_out = (lengths + 1) // 2
        if int(lengths_out.max()) > self.sizes.longest:
            seconds = 0.02 * self.sizes.longest
            raise ValueError(f"an utterance of {lengths.max() / 100:.1f} s; the encoder takes {seconds:.0f} s at most")
        valid = within(features.shape[1], lengths)
        features = features.to(self.positions.dtype)
        x = F.gelu(self.first(features.transpose(1, 2))) * valid.unsqueeze(1)
        x = F.gelu(self.second(x)).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        mask = None
        if int(lengths_out.min()) < x.shape[1]:
            mask = within(x.shape[1], lengths_out)[:, None, None, :]
        states = [x]
        for layer in self.layers:
            x = layer(x, mask)
            states.append(x)
        states[-1] = self.norm(x)
        return states, lengths_out


def within(count: int, lengths: Tensor) -> Tensor:
    """[batch, count], True before each length."""
    return torch.arange(count, device=lengths.device) < lengths[:, None]
