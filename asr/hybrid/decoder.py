"""Whisper's text decoder over a vocabulary cut to what English needs.

Token by token with a cache (`extend`), or all positions at once for training and for judging texts (`denoise`,
causal). Keys and values of the speech are computed once an utterance (`remember`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.dllm.network import SpeechMemory, TextCache
from asr.hybrid.encoder import Attention


@dataclass
class DecoderSizes:
    """Sizes of the decoder; the defaults are Whisper tiny's."""

    vocabulary: int = 16384
    width: int = 384
    heads: int = 6
    layers: int = 4
    feed_forward: int = 1536
    longest: int = 448  # tokens
    dropout: float = 0.0
    prompt: int = 0  # tokens that Whisper reads before the start of the text; without them it loses the thread


class DecoderLayer(nn.Module):
    """Self-attention over the text, cross-attention to the speech, feed-forward; each after a LayerNorm."""

    def __init__(self, sizes: DecoderSizes):
        super().__init__()
        self.text_norm, self.speech_norm, self.out_norm = (nn.LayerNorm(sizes.width) for _ in range(3))
        self.text = Attention(sizes.width, sizes.heads)
        self.speech = Attention(sizes.width, sizes.heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(sizes.width, sizes.feed_forward), nn.GELU(), nn.Linear(sizes.feed_forward, sizes.width)
        )
        self.dropout = nn.Dropout(sizes.dropout)

    def listen(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Cross-attention and feed-forward: the part that does not look at other text."""
        x = x + self.dropout(self.speech(self.speech_norm(x), keys, values, mask))
        return x + self.dropout(self.feed_forward(self.out_norm(x)))


class PromptedCache(TextCache):
    """A cache whose first positions are a prompt, which lengths do not count."""

    def __init__(self, prompt: int):
        super().__init__()
        self.prompt = prompt

    def crop(self, length: int) -> None:
        super().crop(length + self.prompt)


class TextDecoder(nn.Module):
    """Next-token logits from text so far and speech; the output layer shares the embedding's weights."""

    def __init__(self, sizes: DecoderSizes):
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Parameter(torch.zeros(sizes.longest, sizes.width))
        self.prompt = nn.Parameter(torch.zeros(sizes.prompt, sizes.width)) if sizes.prompt else None
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)
        self.output = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        self.output.weight = self.embedding.weight

    @property
    def dtype(self) -> torch.dtype:
        """In which the layers compute; the output layer may be finer, or near ties would be drawn by rounding."""
        return self.layers[0].out_norm.weight.dtype

    @property
    def most_tokens(self) -> int:
        """Tokens that fit behind the start of the text."""
        return self.sizes.longest - 1 - self.sizes.prompt

    def new_cache(self) -> TextCache:
        return PromptedCache(self.sizes.prompt)

    def remember(self, hidden: Tensor, lengths: Tensor) -> SpeechMemory:
        """The speech cache of encoder output [batch, frames, width] with lengths [batch]."""
        hidden = hidden.to(self.dtype)
        # Contiguous, or every step copies them; layer by layer, or they take twice their memory.
        pairs = [[part.contiguous() for part in layer.speech.keys_values(hidden)] for layer in self.layers]
        valid = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        mask = None if bool(valid.all()) else valid[:, None, None, :]
        return SpeechMemory([k for k, _ in pairs], [v for _, v in pairs], mask, lengths)

    def extend(self, tokens: Tensor, speech: SpeechMemory, cache: TextCache) -> Tensor:
        """Logits [batch, m, vocabulary] after m more tokens [batch, m]; the cache grows by them.

        Raises:
            ValueError: the text would be longer than `longest`.
        """
        return self.logits(self.states(tokens, speech, cache))

    def states(self, tokens: Tensor, speech: SpeechMemory, cache: TextCache) -> Tensor:
        """As `extend`, the last layer's states [batch, m, width].

        Raises:
            ValueError: the text would be longer than `longest`.
        """
        before = cache.keys[0].shape[2] if cache.keys else 0
        x = self.embedded(tokens, before)
        count = x.shape[1]
        mask = None
        if count > 1:
            mask = torch.ones(count, before + count, dtype=torch.bool, device=tokens.device).tril(before)
        x = x.to(self.dtype)
        for number, layer in enumerate(self.layers):
            queries, *own = layer.text.project(layer.text_norm(x))
            x = x + layer.dropout(layer.text.attend(queries, *cache.append(number, *own), mask))
            x = layer.listen(x, speech.keys[number], speech.values[number], speech.valid)
        return x[:, count - tokens.shape[1] :]

    def embedded(self, tokens: Tensor, before: int) -> Tensor:
        """Embeddings and positions [batch, m, width] of m more tokens behind `before`; the prompt begins a text.

        Raises:
            ValueError: the text would be longer than `longest`.
        """
        x = self.embedding(tokens)
        if not before and self.prompt is not None:
            x = torch.cat((self.prompt.expand(len(x), -1, -1).to(x.dtype), x), 1)
        after = before + x.shape[1]
        if after > self.sizes.longest:
            raise ValueError(f"a text of {after} tokens; the decoder takes {self.sizes.longest} at most")
        return x + self.positions[before:after]

    def logits(self, x: Tensor) -> Tensor:
        """Last layer's states [..., width] -> logits [..., vocabulary]."""
        return self.output(self.norm(x.to(self.norm.weight.dtype)))

    def denoise(self, tokens: Tensor, speech: SpeechMemory) -> Tensor:
        """Logits [batch, n, vocabulary] of the next token behind every position of tokens [batch, n]."""
        return self.extend(tokens, speech, TextCache())

    forward = denoise
