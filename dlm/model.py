"""The correction model: an encoder-decoder Transformer that reads a hypothesis and writes what was said.

"Denoising LM: Pushing the Limits of Error Correction Models for Speech Recognition" (arXiv 2405.15216), Sec. 4:
most layers in the encoder, characters, sinusoidal positions, dropout and layer-drop. Without encoder layers the same
module is a plain decoder-only language model, the rival of every table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.ctc.encoder import ChannelDropout
from asr.hub import HubModel
from dlm.units import load_units

COMPACT = Path(__file__).parent / "weights" / "dlm_compact"
KeysValues = tuple[Tensor, Tensor]  # each [rows, heads, positions, width / heads]


@dataclass
class DenoisingLMConfig:
    """Sizes; `encoder_layers` 0 makes a decoder-only language model."""

    width: int = 256
    heads: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 2
    feed_forward: int = 1024
    dropout: float = 0.1
    layer_drop: float = 0.1


class Attention(nn.Module):
    """Multi-head attention whose keys and values are made once and may be kept."""

    def __init__(self, config: DenoisingLMConfig):
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def start_as_copy(self) -> None:
        """Begin as a copy of what stands at the same place: queries equal keys, and `out` undoes the values."""
        with torch.no_grad():
            key, value = self.key_value.weight.chunk(2)
            key.copy_(nn.init.orthogonal_(self.query.weight, gain=3.0))  # sharp enough to tell neighbours apart
            self.out.weight.copy_(nn.init.orthogonal_(value).T)

    def keys_values(self, x: Tensor) -> KeysValues:
        """Keys and values of x [rows, positions, width]."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(self, x: Tensor, memory: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """x [rows, positions, width] looks at `memory`; `mask` [rows, 1, 1, keys] is True where it may."""
        attended = F.scaled_dot_product_attention(self._split(self.query(x)), *memory, attn_mask=mask, is_causal=causal)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """Pre-norm Transformer layer; a decoder layer of a correction model also attends to the hypothesis."""

    def __init__(self, config: DenoisingLMConfig, cross: bool = False):
        super().__init__()
        width = config.width
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(config)
        if cross:
            self.cross_norm, self.cross_attention = nn.LayerNorm(width), Attention(config)
        self.feed_norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, config.feed_forward), nn.Linear(config.feed_forward, width)
        self.dropout = ChannelDropout(config.dropout)

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.self_norm(x)
        x = x + self.dropout(self.self_attention(normed, self.self_attention.keys_values(normed), mask))
        return self._feed_forward(x)

    def decode(
        self, x: Tensor, past: KeysValues | None, memory: KeysValues | None, mask: Tensor | None
    ) -> tuple[Tensor, KeysValues]:
        """One stretch of positions x after the `past` ones (causal inside a first stretch; later ones are one long)."""
        normed = self.self_norm(x)
        own = self.self_attention.keys_values(normed)
        if past is not None:
            own = tuple(torch.cat(pair, dim=2) for pair in zip(past, own, strict=True))
        x = x + self.dropout(self.self_attention(normed, own, causal=past is None))
        if memory is not None:
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), memory, mask))
        return self._feed_forward(x), own

    def _feed_forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(F.gelu(self.up(self.feed_norm(x)))))


@dataclass
class DecoderState:
    """What decoding carries from one token to the next; rows are texts being written.

    Attributes:
        memory: for each layer keys and values of the hypothesis (empty for a language model).
        mask: [rows, 1, 1, source] True where the hypothesis has a token.
        past: for each layer keys and values of the tokens written so far.
        position: number of tokens written.
    """

    memory: list[KeysValues]
    mask: Tensor | None
    past: list[KeysValues]
    position: int = 0

    def select(self, rows: Tensor) -> DecoderState:
        """The state of other rows, any of them several times."""

        def pick(layers: list[KeysValues]) -> list[KeysValues]:
            return [(keys[rows], values[rows]) for keys, values in layers]

        return DecoderState(
            pick(self.memory), None if self.mask is None else self.mask[rows], pick(self.past), self.position
        )


class DenoisingLM(nn.Module, HubModel):
    """Hypotheses in, log-probabilities of texts out.

    Args:
        sizes: fields of `DenoisingLMConfig`.
        units: "characters", or the JSON definition of a sub-word `asr.text.tokenizer.Tokenizer`.
        correction: fields of `dlm.corrector.CorrectionOptions` tuned for this model.
    """

    def __init__(self, sizes: dict, units: str = "characters", correction: dict[str, float] | None = None):
        super().__init__()
        self.config = DenoisingLMConfig(**sizes)
        self.units, self.correction = load_units(units), correction or {}
        width = self.config.width
        self.embedding = nn.Embedding(len(self.units), width)
        self.source_embedding = nn.Embedding(len(self.units), width) if self.config.encoder_layers else None
        self.dropout = ChannelDropout(self.config.dropout)
        self.encoder = nn.ModuleList(Layer(self.config) for _ in range(self.config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width) if self.encoder else None
        self.decoder = nn.ModuleList(Layer(self.config, bool(self.encoder)) for _ in range(self.config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(self.units))
        self._start()

    @classmethod
    def create(cls, config: DenoisingLMConfig, units: str = "characters") -> DenoisingLM:
        return cls(sizes=dataclasses.asdict(config), units=units)

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, **kwargs) -> DenoisingLM:
        """Load from a folder or a Hub id; None loads the compact model that ships in the package.

        Raises:
            OSError: there is no such model.
        """
        if name is None and not COMPACT.is_dir():
            raise OSError(f"no compact correction model in {COMPACT}: train one (experiment=dlm_compact) and name it")
        return super().from_pretrained(name or COMPACT, **kwargs)

    def _start(self) -> None:
        """Initial weights: a correction model begins as a rough copy of its hypothesis.

        Copying is most of correcting, and an encoder-decoder needs long to find it by itself.
        """
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)
        if self.encoder:
            nn.init.normal_(self.source_embedding.weight, std=self.config.width**-0.5)
            with torch.no_grad():
                self.head.weight.copy_(self.source_embedding.weight)
            for layer in self.decoder:
                layer.cross_attention.start_as_copy()

    # -- both halves ---------------------------------------------------------------------------------------

    def _embed(self, tokens: Tensor, embedding: nn.Embedding, first: int = 0) -> Tensor:
        x = embedding(tokens) * math.sqrt(self.config.width)
        return self.dropout(x + sinusoids(first, tokens.shape[1], self.config.width, x.device).to(x.dtype))

    def encode(self, source: Tensor, mask: Tensor) -> Tensor:
        """Tokens [rows, positions] of hypotheses -> [rows, positions, width]; mask as in `Attention`."""
        x = self._embed(source, self.source_embedding)
        for layer in self.encoder:
            x = _skip(x, layer) if self._drops() else layer.encode(x, mask)
        return self.encoder_norm(x)

    def _drops(self) -> bool:
        return self.training and float(torch.rand(())) < self.config.layer_drop

    def _log_probabilities(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.head(self.decoder_norm(x)).float(), dim=-1)

    # -- training and scoring ------------------------------------------------------------------------------

    def forward(self, source: Tensor | None, target: Tensor) -> Tensor:
        """Log-probabilities [rows, positions, units] of the token after each of `target`.

        Args:
            source: [rows, positions] hypothesis tokens, padded with 0; None for a language model.
            target: [rows, positions] the end token, then the text.
        """
        state = self.start(source, len(target))
        return self._decode(target, state)[0]

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy per target token, and the number of target tokens.

        Args:
            batch: `source` (left out for a language model), `target` [rows, positions] that opens and closes with
                the end token, padded with 0.
        """
        target = batch["target"]
        log_probabilities = self(batch.get("source"), target[:, :-1])
        wanted = target[:, 1:]
        loss = F.nll_loss(log_probabilities.flatten(0, 1), wanted.flatten(), ignore_index=0)
        return loss, (wanted != 0).sum()

    # -- decoding ------------------------------------------------------------------------------------------

    def start(self, source: Tensor | None, rows: int = 1) -> DecoderState:
        """State before the first token of one text for each hypothesis; feed `units.end_id` to begin."""
        if not self.encoder:
            return DecoderState([], None, [])
        mask = (source != 0)[:, None, None]
        encoded = self.encode(source, mask)
        return DecoderState([layer.cross_attention.keys_values(encoded) for layer in self.decoder], mask, [])

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Write `tokens` [rows]; returns log-probabilities [rows, units] of the next one and the new state."""
        log_probabilities, state = self._decode(tokens[:, None], state)
        return log_probabilities[:, -1], state

    def _decode(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        x, past = self._embed(tokens, self.embedding, state.position), []
        for number, layer in enumerate(self.decoder):
            memory = state.memory[number] if state.memory else None
            if self._drops():
                x = _skip(x, layer, memory or ())
                continue
            x, own = layer.decode(x, state.past[number] if state.past else None, memory, state.mask)
            past.append(own)
        new = DecoderState(state.memory, state.mask, past, state.position + tokens.shape[1])
        return self._log_probabilities(x), new


def _skip(x: Tensor, layer: nn.Module, memory: Sequence[Tensor] = ()) -> Tensor:
    """x, with a gradient of zero for what is skipped: training on many GPUs expects one for every weight."""
    return x + 0 * sum(p.sum() for p in (*layer.parameters(), *memory))


def sinusoids(first: int, count: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Position embeddings [count, width] from position `first` on (Vaswani et al. 2017, Sec. 3.5)."""
    frequencies = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angles = torch.arange(first, first + count, device=device)[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Token sequences as one tensor [rows, longest], padded with 0."""
    return nn.utils.rnn.pad_sequence([torch.tensor(s, dtype=torch.long) for s in sequences], batch_first=True)
