"""The acoustic encoder: a Conformer whose middle runs at half the frame rate.

Log-mel frames (10 ms) are subsampled fourfold to 40 ms. The first layers work at that rate, the middle ones at
80 ms, the last again at 40 ms with a skip connection around the middle, as in Squeezeformer (Kim et al. 2022,
Sec. 3.1) and Zipformer (Yao et al. 2023). Most of the parameters then cost half, while CTC keeps 25 frames a
second, enough for fast speech in short units.

Layers are Conformer blocks (Gulati et al. 2020): half feed-forward, self-attention with rotary positions,
convolution, half feed-forward. LayerNorm replaces BatchNorm in the convolution, so padding and batch
composition do not change a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SUBSAMPLING = 4  # input frames per output frame


@dataclass
class EncoderConfig:
    """Sizes of the encoder. `layers` counts the layers at 40 ms, at 80 ms and again at 40 ms."""

    num_mels: int = 80
    width: int = 256
    heads: int = 4
    layers: tuple[int, int, int] = (3, 6, 2)
    feed_forward: int = 512
    kernel: int = 15
    front_channels: int = 32
    dropout: float = 0.1


class Subsampling(nn.Module):
    """Two strided convolutions over time and frequency: [batch, frames, mel] -> [batch, frames / 4, width]."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        channels = config.front_channels
        self.first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels * 2, 1)
        self.out = nn.Linear(channels * 2 * -(-config.num_mels // 4), config.width)

    def forward(self, features: Tensor) -> Tensor:
        x = F.silu(self.first(features.unsqueeze(1)))
        x = F.silu(self.pointwise(self.depthwise(x)))
        return self.out(x.transpose(1, 2).flatten(2))


def rotary_angles(frames: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine [frames, size / 2] of rotary position embedding (Su et al. 2021)."""
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, device=device) / size)
    angles = torch.arange(frames, device=device)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of x [..., frames, size] by its position's angles."""
    cosine, sine = (a.to(x.dtype) for a in angles)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention over [batch, heads, frames, size]; the mask is True where a key counts.

    The fused kernel is slow on a CPU in bfloat16: plain products train up to four times as fast.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(value.dtype) @ value


class ChannelDropout(nn.Module):
    """Dropout whose mask is shared by all frames of an utterance: [batch, frames, width].

    Drawing one number a channel instead of one an activation takes a fifth off a training step on a CPU.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        mask = torch.rand(x.shape[0], 1, x.shape[2], device=x.device) < keep
        return x * mask.to(x.dtype).div(keep)


class SelfAttention(nn.Module):
    """Multi-head self-attention with rotary positions over [batch, frames, width]."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.heads = config.heads
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor | None, angles: tuple[Tensor, Tensor]) -> Tensor:
        batch, frames, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, frames, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        x = attend(rotate(query, angles), rotate(key, angles), value, mask)
        return self.out(x.transpose(1, 2).reshape(batch, frames, width))


class Convolution(nn.Module):
    """Gated pointwise, depthwise over time, pointwise."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width = config.width
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, config.kernel, padding=config.kernel // 2, groups=width)
        self.inner_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        x = F.glu(self.gate(self.norm(x)))
        if keep is not None:
            x = x * keep
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.out(F.silu(self.inner_norm(x)))


class FeedForward(nn.Sequential):
    def __init__(self, config: EncoderConfig):
        super().__init__(
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.feed_forward),
            nn.SiLU(),
            ChannelDropout(config.dropout),
            nn.Linear(config.feed_forward, config.width),
        )


class ConformerLayer(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.before = FeedForward(config)
        self.attention = SelfAttention(config)
        self.convolution = Convolution(config)
        self.after = FeedForward(config)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = ChannelDropout(config.dropout)

    def forward(self, x: Tensor, padding: Padding, angles: tuple[Tensor, Tensor]) -> Tensor:
        x = x + 0.5 * self.dropout(self.before(x))
        x = x + self.dropout(self.attention(x, padding.attention, angles))
        x = x + self.dropout(self.convolution(x, padding.keep))
        x = x + 0.5 * self.dropout(self.after(x))
        return self.norm(x)


@dataclass
class Padding:
    """Masks of a padded batch; both are None when nothing is padded, which is faster."""

    attention: Tensor | None  # [batch, 1, 1, frames], True where a key may be attended
    keep: Tensor | None  # [batch, frames, 1], 1 for speech and 0 for padding

    @classmethod
    def of(cls, lengths: Tensor, frames: int) -> Padding:
        valid = torch.arange(frames, device=lengths.device) < lengths[:, None]
        if torch.compiler.is_compiling() or not valid.all():
            return cls(valid[:, None, None, :], valid.unsqueeze(-1))
        return cls(None, None)


class Encoder(nn.Module):
    """features [batch, frames, mel] -> hidden [batch, ceil(frames / 4), width]."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        before, middle, after = config.layers
        self.subsampling = Subsampling(config)
        self.dropout = ChannelDropout(config.dropout)
        self.before = nn.ModuleList(ConformerLayer(config) for _ in range(before))
        self.down = nn.Linear(2 * config.width, config.width)
        self.middle = nn.ModuleList(ConformerLayer(config) for _ in range(middle))
        self.up = nn.Linear(config.width, 2 * config.width)
        self.after = nn.ModuleList(ConformerLayer(config) for _ in range(after))

    @staticmethod
    def output_lengths(lengths: Tensor) -> Tensor:
        """Number of output frames for each number of input frames."""
        return (lengths + SUBSAMPLING - 1) // SUBSAMPLING

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a padded batch.

        Args:
            features: normalised log-mel [batch, frames, mel].
            lengths: [batch] valid frames of each.

        Returns:
            hidden [batch, frames', width], the hidden state before the half-rate layers (for an intermediate
            loss) of the same shape, and lengths' [batch].
        """
        states, lengths = self.hidden_states(features, lengths)
        return states[-1], states[len(self.before)], lengths

    def hidden_states(self, features: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """Everything the encoder computes at 40 ms, from the bottom up; arguments as for `forward`.

        Returns:
            the output of the subsampling, of each layer before the half-rate ones, of those together (brought back
            to 40 ms and added to what came in) and of each layer after them, all [batch, frames', width];
            and lengths' [batch].
        """
        valid = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
        features = features * valid.unsqueeze(-1)
        # An even number of 40 ms frames, so that the middle is exactly half as long.
        features = F.pad(features, (0, 0, 0, -features.shape[1] % (2 * SUBSAMPLING)))
        x = self.dropout(self.subsampling(features))
        lengths = self.output_lengths(lengths)
        batch, frames, width = x.shape
        angles = rotary_angles(frames, width // self.config.heads, x.device)

        full = Padding.of(lengths, frames)
        if full.keep is not None:
            x = x * full.keep
        states = [x]
        for layer in self.before:
            x = layer(x, full, angles)
            states.append(x)
        early = x

        half = Padding.of((lengths + 1) // 2, frames // 2)
        half_angles = tuple(a[: frames // 2] for a in angles)
        x = x if full.keep is None else x * full.keep
        x = self.down(x.view(batch, frames // 2, 2 * width))
        for layer in self.middle:
            x = layer(x, half, half_angles)

        x = early + self.up(x).view(batch, frames, width)
        states.append(x)
        for layer in self.after:
            x = layer(x, full, angles)
            states.append(x)
        return states, lengths
