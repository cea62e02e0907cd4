"""The text decoder: a bidirectional denoiser or, with a causal mask, its autoregressive twin.

Both are the same Transformer over token positions with cross-attention to the encoder's output (dLLM-ASR,
arXiv 2601.17902, at the size of a CPU). Keys and values of the speech are computed once an utterance
(`SpeechMemory`), those of the text are kept between passes where decoding wants them (`TextCache`).

Positions rotate queries and keys (Su et al. 2021). In cross-attention the angle of a query is the time at which
its token is expected and the angle of a key the time of its frame. Two additions to the paper, for a small decoder
with little data: a slot that the draft has placed in time starts from the encoder's frame there, so it need not learn
first where to listen (`anchored`), and adds what CTC holds of that frame to its logits, so it need not learn again
what CTC knows (`corrects`).
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.ctc.encoder import ChannelDropout, attend, rotate
from asr.dllm.caches import SpeechMemory, TextCache
from asr.hub import HubModel
from asr.parts import Listened
from asr.text.tokenizer import Tokenizer

FAINTEST = -12.0  # least CTC log-probability that enters a decoder's logits


@dataclass
class DenoiserConfig:
    """Sizes of the decoder.

    Args:
        vocabulary: tokens, the special ones included (`asr.text.tokenizer`).
        memory_width: width of the encoder's output.
        causal: True makes the autoregressive twin.
        frames_per_token: encoder frames a token takes on average; the time of slots that no prior has placed.
        anchored: slots that the draft has placed in time start from the encoder's frame there.
        corrects: they also add the CTC posterior of that frame to their logits, so that only corrections are learned.
    """

    vocabulary: int = 256
    memory_width: int = 256
    width: int = 192
    heads: int = 4
    layers: int = 8
    feed_forward: int = 768
    dropout: float = 0.1
    causal: bool = False
    frames_per_token: float = 4.5
    anchored: bool = True
    corrects: bool = True


def rotary(positions: Tensor, size: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine [..., 1, n, size / 2] for real positions [..., n]; the 1 stands for the heads."""
    frequencies = base ** (-torch.arange(0, size, 2, device=positions.device) / size)
    angles = positions.float().unsqueeze(-2).unsqueeze(-1) * frequencies
    return angles.cos(), angles.sin()


def at_frames(values: Tensor, frames: Tensor) -> Tensor:
    """Values [batch, length, size] at the indices frames [batch * k, n]: [batch * k, n, size]."""
    index = frames.clamp(max=values.shape[1] - 1).view(len(values), -1, 1).expand(-1, -1, values.shape[-1])
    return values.gather(1, index).view(*frames.shape, -1)


class DecoderLayer(nn.Module):
    """Self-attention over the text, cross-attention to the speech, feed-forward; each after a LayerNorm."""

    def __init__(self, config: DenoiserConfig):
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.self_norm, self.cross_norm, self.out_norm = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.self_out = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.cross_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, config.feed_forward), nn.GELU(), nn.Linear(config.feed_forward, width)
        )
        self.dropout = ChannelDropout(config.dropout)

    def heads_first(self, x: Tensor) -> Tensor:
        """[batch, n, width] -> [batch, heads, n, size]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [batch, heads, n, size] of the self-attention."""
        query, key, value = (self.heads_first(part) for part in self.qkv(self.self_norm(x)).chunk(3, dim=-1))
        return rotate(query, angles), rotate(key, angles), value

    def attend_text(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        y = attend(query, key, value, mask)
        return x + self.dropout(self.self_out(y.transpose(1, 2).flatten(2)))

    def attend_speech(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, angles) -> Tensor:
        """x [batch * canvases, n, width]; the canvases of an utterance share its keys and values."""
        batch, n, width = x.shape
        query = rotate(self.heads_first(self.query(self.cross_norm(x))), angles)
        if batch != key.shape[0]:  # [utterances, heads, canvases * n, size]
            query = query.unflatten(0, (key.shape[0], -1)).transpose(1, 2).flatten(2, 3)
        y = attend(query, key, value, mask)
        y = y.transpose(1, 2).reshape(batch, n, width)
        return x + self.dropout(self.cross_out(y))

    def transform(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.feed_forward(self.out_norm(x)))


class Denoiser(nn.Module, HubModel):
    """Canvas and speech in, logits for every position out: `denoise(canvas, speech) -> logits`.

    Args:
        sizes: fields of `DenoiserConfig`.
        tokenizer: JSON definition of the vocabulary, that of the recogniser it belongs to.
        decode: defaults of decoding that were chosen on held-out data (fields of `asr.dllm.choices.DenoisingDecode`).
    """

    most_tokens = sys.maxsize  # that fit behind the start of the text: any number, since positions rotate

    def __init__(self, sizes: dict, tokenizer: str | None = None, decode: dict | None = None):
        super().__init__()
        self.config = DenoiserConfig(**sizes)
        self.decode = decode or {}
        self.tokenizer_definition = tokenizer
        width, layers = self.config.width, self.config.layers
        self.embedding = nn.Embedding(self.config.vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.memory_norm = nn.LayerNorm(self.config.memory_width)
        self.memory = nn.Linear(self.config.memory_width, 2 * width * layers)
        self.anchor = nn.Linear(self.config.memory_width, width) if self.config.anchored else None
        self.trust = nn.Parameter(torch.ones(())) if self.config.corrects else None
        self.layers = nn.ModuleList(DecoderLayer(self.config) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, self.config.vocabulary)

    @classmethod
    def create(cls, config: DenoiserConfig, tokenizer=None) -> Denoiser:
        return cls(dataclasses.asdict(config), tokenizer.definition if tokenizer else None)

    @property
    def head_size(self) -> int:
        return self.config.width // self.config.heads

    def remember(self, hidden: Tensor, lengths: Tensor, log_probabilities: Tensor | None = None) -> SpeechMemory:
        """The speech cache of encoder output [batch, frames, memory_width] with lengths [batch].

        Args:
            log_probabilities: of CTC [batch, frames, vocabulary], which a decoder that `corrects` builds on.
        """
        batch, frames, _ = hidden.shape
        times = torch.arange(frames, device=hidden.device)
        angles = rotary(times, self.head_size)
        hidden = self.memory_norm(hidden)
        parts = self.memory(hidden).unflatten(-1, (self.config.layers, 2, self.config.heads, -1))
        parts = parts.permute(2, 3, 0, 4, 1, 5)  # layers, key or value, batch, heads, frames, size
        valid = times < lengths[:, None]
        mask = None if bool(valid.all()) else valid[:, None, None, :]
        anchors = None if self.anchor is None else self.anchor(hidden)
        scores = self._scores(log_probabilities)
        keys, values = [rotate(p[0], angles) for p in parts], [p[1] for p in parts]
        return SpeechMemory(keys, values, mask, lengths, anchors, scores)

    def hear(self, heard: Listened, cached: bool = True) -> SpeechMemory:
        """The speech cache of a batch; exact, so it is made either way, and anew where the loop asks in each pass."""
        return self.remember(heard.hidden, heard.lengths, heard.padded_posteriors())

    def _scores(self, log_probabilities: Tensor | None) -> Tensor | None:
        if self.trust is None or log_probabilities is None:
            return None
        scores = log_probabilities.clamp(min=FAINTEST)
        blank, null = scores[..., Tokenizer.blank_id].clone(), Tokenizer.null_id
        scores[..., null] = blank
        return scores

    def times(self, positions: Tensor, memory: SpeechMemory) -> Tensor:
        """Expected times [batch, n] in encoder frames of positions [n] or [batch, n] that no prior has placed."""
        frames = memory.frames[:, None].to(positions.device)
        return torch.minimum(positions * self.config.frames_per_token, frames.float())

    def _begin(
        self, canvas: Tensor, times: Tensor | None, speech: SpeechMemory
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What every position starts from [batch, n, width], its time [batch, n], and what CTC adds to its logits."""
        x, scores = self.embedding(canvas), None
        positions = torch.arange(canvas.shape[1], device=canvas.device)
        even = self.times(positions, speech).repeat_interleave(len(canvas) // len(speech.frames), 0)
        if times is None:
            return x, even, None
        placed = times >= 0
        frames = times.round().long().clamp(min=0)
        if speech.anchors is not None:
            x = x + at_frames(speech.anchors, frames) * placed.unsqueeze(-1)
        if speech.scores is not None:
            scores = at_frames(speech.scores, frames) * placed.unsqueeze(-1)
        return x, torch.where(placed, times, even), scores

    def denoise(
        self,
        canvas: Tensor,
        speech: SpeechMemory,
        times: Tensor | None = None,
        valid: Tensor | None = None,
        active: Tensor | None = None,
        cache: TextCache | None = None,
    ) -> Tensor:
        """Logits of canvas positions.

        Args:
            canvas: token ids [batch, n]; the batch may be a multiple of the utterances in `speech`, whose
                canvases then follow one another.
            speech: from `remember`.
            times: expected time of each position [batch, n] in encoder frames. A position with a time starts from
                the frame there as well as from its token; negative ones, and None, are spaced evenly without that.
            valid: [batch, n], False where a position is padding.
            active: positions [batch, m] to compute; the others stand in `cache` as they were computed last.
            cache: updated in place.

        Returns:
            logits [batch, m or n, vocabulary].
        """
        positions = torch.arange(canvas.shape[1], device=canvas.device)
        x, times, scores = self._begin(canvas, times, speech)
        mask = None if valid is None else valid[:, None, None, :]
        if self.config.causal:
            causal = positions[:, None] >= positions
            mask = causal if mask is None else mask & causal
        if active is not None:
            x = at_frames(x, active)
            scores = None if scores is None else at_frames(scores, active)
        computed, angles, time_angles = active, *self._angles(positions, times, active)
        for number, layer in enumerate(self.layers):
            if cache is not None:
                before, (computed, x) = computed, cache.enter(number, computed, x)
                if computed is not before:
                    angles, time_angles = self._angles(positions, times, computed)
            query, key, value = layer.project(x, angles)
            if cache is not None:
                key, value = cache.update(number, computed, key, value)
                cache.observe(number, computed, query, key, mask)
            x = layer.attend_text(x, query, key, value, mask)
            x = self.listen(layer, number, x, speech, time_angles)
        if active is not None and computed is None:
            x = at_frames(x, active)
        logits = self.head(self.norm(x))
        return logits if scores is None else logits + self.trust * scores

    def _angles(self, positions: Tensor, times: Tensor, active: Tensor | None):
        """Rotations of the active positions (None: all) in self-attention and in cross-attention."""
        if active is not None:
            positions, times = active, times.gather(1, active)
        return rotary(positions, self.head_size), rotary(times, self.head_size)

    def extend(self, tokens: Tensor, speech: SpeechMemory, cache: TextCache) -> Tensor:
        """One step of the autoregressive twin: logits [batch, m, vocabulary] after m more tokens [batch, m]."""
        before = cache.keys[0].shape[2] if cache.keys else 0
        count = tokens.shape[1]
        positions = torch.arange(before, before + count, device=tokens.device)
        mask = None
        if count > 1:
            mask = positions[:, None] >= torch.arange(before + count, device=tokens.device)
        angles = rotary(positions, self.head_size)
        time_angles = rotary(self.times(positions, speech), self.head_size)
        x = self.embedding(tokens)
        for number, layer in enumerate(self.layers):
            query, key, value = layer.project(x, angles)
            key, value = cache.append(number, key, value)
            x = layer.attend_text(x, query, key, value, mask)
            x = self.listen(layer, number, x, speech, time_angles)
        return self.head(self.norm(x))

    def listen(self, layer: DecoderLayer, number: int, x: Tensor, speech: SpeechMemory, angles) -> Tensor:
        """The part of a layer that does not look at other text: cross-attention and feed-forward."""
        return layer.transform(layer.attend_speech(x, speech.keys[number], speech.values[number], speech.valid, angles))

    def forward(self, *args, **kwargs) -> Tensor:
        return self.denoise(*args, **kwargs)
