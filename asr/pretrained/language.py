"""Language models behind one interface: they get the speech as a prefix of embeddings and write on the canvas after it.

    prefix    prompt, speech, rest of the prompt: embeddings [batch, p, width], padded on the left
    canvas    token ids [batch, n], padded on the right

What the prefix may attend to decides what can be cached. If it does not see the canvas, its keys and values are the
same in every pass and the cache is exact. If it does, as in models pretrained with full attention, cached keys and
values are those of a prefix without a canvas: an approximation (as in Fast-dLLM, arXiv 2505.22618).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from asr.compat import cache_name
from asr.pretrained.config import LanguagePart
from asr.pretrained.parts import load_language_model


class PrefixCache:
    """Keys and values of a prefix, in the form that attention layers of transformers ask for.

    The first pass fills it. From then on a pass sees its own keys behind those of the prefix and leaves nothing.
    """

    def __init__(self):
        self.keys: list[Tensor] = []  # each [batch, heads, p, size]
        self.values: list[Tensor] = []
        self.is_filled = False

    def update(self, keys: Tensor, values: Tensor, layer: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_filled:
            self.keys.append(keys)
            self.values.append(values)
            return keys, values
        return torch.cat((self.keys[layer], keys), 2), torch.cat((self.values[layer], values), 2)

    def get_seq_length(self, layer: int = 0) -> int:
        return self.keys[layer].shape[2] if self.is_filled else 0

    def batch_select_indices(self, index: Tensor) -> None:
        self.keys = [keys[index] for keys in self.keys]
        self.values = [values[index] for values in self.values]


@dataclass
class Prefix:
    """What stands before the canvas of each utterance.

    Attributes:
        embeddings: [batch, p, width].
        valid: [batch, p], False where a row is padded (on its left).
        cache: keys and values; None where they are computed anew in every pass.
        last: [batch, 1, vocabulary] logits at the last position; of cached models that are `shifted`.
        frames: [batch] of the encoder, which bound the length of the text.
    """

    embeddings: Tensor
    valid: Tensor
    cache: PrefixCache | DynamicCache | None = None
    last: Tensor | None = None
    frames: Tensor | None = None

    def rows(self, index: Tensor) -> Prefix:
        """The prefixes of some utterances of the batch; the cache is cut in place."""
        if self.cache is not None:
            chosen = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
            self.cache.batch_select_indices(chosen)
        last = None if self.last is None else self.last[index]
        frames = None if self.frames is None else self.frames[index]
        return Prefix(self.embeddings[index], self.valid[index], self.cache, last, frames)


class LanguageModel(nn.Module):
    """Base of the kinds; `network` is the model of transformers."""

    def __init__(self, part: LanguagePart):
        super().__init__()
        self.part = part
        self.network: PreTrainedModel = load_language_model(part)
        self.network.requires_grad_(part.train)
        if part.gradient_checkpointing:
            self.network.gradient_checkpointing_enable({"use_reentrant": False})
        parameters = inspect.signature(self.network.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.keeps_logits = "logits_to_keep" in parameters
        self.cache_name = cache_name(self.network.forward)

    @property
    def width(self) -> int:
        return self.network.config.get_text_config().hidden_size

    @property
    def vocabulary(self) -> int:
        return self.network.config.get_text_config().vocab_size

    @property
    def dtype(self) -> torch.dtype:
        return self.network.get_input_embeddings().weight.dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [..., width] of token ids."""
        return self.network.get_input_embeddings()(tokens)

    def remember(self, embeddings: Tensor, valid: Tensor, cached: bool = True) -> Prefix:
        """The prefix of embeddings [batch, p, width] with valid [batch, p], its keys and values if `cached`."""
        return Prefix(embeddings.to(self.dtype), valid)

    def denoise(self, canvas: Tensor, valid: Tensor, prefix: Prefix) -> Tensor:
        """Logits [batch, n, vocabulary] of a canvas [batch, n]."""
        raise NotImplementedError

    def _run(self, embeddings: Tensor, mask: Tensor, positions: Tensor, keep: int, **options) -> Tensor:
        """Logits of the last `keep` positions."""
        if self.takes_positions:
            options["position_ids"] = positions
        if self.keeps_logits:
            options["logits_to_keep"] = keep
        logits = self.network(inputs_embeds=embeddings, attention_mask=mask, **options).logits
        return logits[:, -keep:]

    def _joined(self, canvas: Tensor, valid: Tensor, prefix: Prefix) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of prefix and canvas, which of them are valid, and their positions."""
        embeddings = torch.cat((prefix.embeddings, self.embed(canvas)), 1)
        seen = torch.cat((prefix.valid, valid), 1)
        return embeddings, seen, positions_of(seen)

    def _of_canvas(self, logits: Tensor) -> Tensor:
        """Logits of the canvas, of those of the canvas and the position before it."""
        return logits[:, :-1] if self.part.shifted else logits[:, 1:]


def positions_of(valid: Tensor) -> Tensor:
    """Positions [batch, n] that count the valid ones."""
    return (valid.long().cumsum(1) - 1).clamp(min=0)


class MaskedModel(LanguageModel):
    """A bidirectional model as it comes: prefix and canvas are computed together in every pass."""

    def denoise(self, canvas: Tensor, valid: Tensor, prefix: Prefix) -> Tensor:
        embeddings, seen, positions = self._joined(canvas, valid, prefix)
        self._check_length(embeddings.shape[1])
        return self._of_canvas(self._run(embeddings, seen.long(), positions, canvas.shape[1] + 1))

    def _check_length(self, length: int) -> None:
        limit = getattr(self.network.config, "max_position_embeddings", None)
        if limit and length > limit:
            raise ValueError(
                f"speech and canvas take {length} positions, the language model has {limit}: "
                "use shorter segments or a larger projector.factor"
            )


class DecoderModel(LanguageModel):
    """Decoder layers under a mask of ours: bidirectional, with a cache of the prefix."""

    def remember(self, embeddings: Tensor, valid: Tensor, cached: bool = True) -> Prefix:
        prefix = super().remember(embeddings, valid)
        if cached:
            cache = PrefixCache()
            mask = valid[:, None, None, :].expand(-1, 1, valid.shape[1], -1)
            last = self._run(prefix.embeddings, mask, positions_of(valid), 1, **{self.cache_name: cache})
            cache.is_filled = True
            prefix.cache, prefix.last = cache, last if self.part.shifted else None
        return prefix

    def denoise(self, canvas: Tensor, valid: Tensor, prefix: Prefix) -> Tensor:
        if prefix.cache is None:
            return self._together(canvas, valid, prefix)
        seen = torch.cat((prefix.valid, valid), 1)
        count = canvas.shape[1]
        logits = self._run(
            self.embed(canvas),
            seen[:, None, None, :].expand(-1, 1, count, -1),
            positions_of(seen)[:, -count:],
            count,
            **{self.cache_name: prefix.cache},
        )
        return logits if prefix.last is None else torch.cat((prefix.last, logits[:, :-1]), 1)

    def _together(self, canvas: Tensor, valid: Tensor, prefix: Prefix) -> Tensor:
        embeddings, seen, positions = self._joined(canvas, valid, prefix)
        mask = seen[:, None, None, :].repeat(1, 1, seen.shape[1], 1)
        if not self.part.prefix_sees_canvas:
            before = prefix.valid.shape[1]
            mask[:, :, :before, before:] = False
        return self._of_canvas(self._run(embeddings, mask, positions, canvas.shape[1] + 1))


class BlockModel(LanguageModel):
    """DiffusionGemma: a causal encoder of the prefix whose keys and values a bidirectional decoder reads.

    It was pretrained on random tokens in place of masks; `mask_token` names the one that stands for a mask here.
    """

    def remember(self, embeddings: Tensor, valid: Tensor, cached: bool = True) -> Prefix:
        prefix = super().remember(embeddings, valid)
        if cached:
            prefix.cache = self._encode(prefix)
        return prefix

    def _encode(self, prefix: Prefix) -> DynamicCache:
        cache = DynamicCache(config=self.network.config)
        self.network.model.encoder(
            inputs_embeds=prefix.embeddings,
            attention_mask=prefix.valid.long(),
            position_ids=positions_of(prefix.valid),
            **{self.cache_name: cache},
        )
        return cache

    def denoise(self, canvas: Tensor, valid: Tensor, prefix: Prefix) -> Tensor:
        seen = torch.cat((prefix.valid, valid), 1)
        return self.network(
            decoder_input_ids=canvas,
            decoder_attention_mask=seen,
            decoder_position_ids=positions_of(seen)[:, -canvas.shape[1] :],
            **{self.cache_name: prefix.cache or self._encode(prefix)},
        ).logits


class Continuation:
    """Keys and values of prefix and text, as `asr.ar.greedy` and layers of transformers both use them."""

    def __init__(self):
        self.content = DynamicCache()
        self.prefix = 0  # positions of the prefix, the last of which is the start of the text

    def rows(self, index: Tensor) -> None:
        """Keep only some utterances of the batch."""
        self.content.batch_select_indices(index)

    def crop(self, length: int) -> None:
        """Forget the text from its position `length` on, its start included in the count."""
        surplus = self.content.get_seq_length() - (self.prefix - 1 + length)
        if surplus > 0:
            self.content.crop(-surplus)  # old and new versions of transformers both take what to remove as negative


class CausalModel(LanguageModel):
    """The autoregressive baseline."""

    def next_logits(self, tokens: Tensor, valid: Tensor, prefix: Prefix) -> Tensor:
        """Logits [batch, n, vocabulary] of each of the tokens [batch, n] given those before it."""
        embeddings, seen, positions = self._joined(tokens, valid, prefix)
        return self._run(embeddings, seen.long(), positions, tokens.shape[1] + 1)[:, :-1]

    def extend(self, tokens: Tensor, prefix: Prefix, cache: Continuation) -> Tensor:
        """Logits [batch, n, vocabulary] after n more tokens [batch, n]; the cache grows by them.

        The first token of a text stands for its start, which is the prefix: it has no embedding of its own.
        """
        if cache.prefix:
            embeddings = self.embed(tokens)
        else:
            cache.prefix = prefix.embeddings.shape[1]
            embeddings = torch.cat((prefix.embeddings, self.embed(tokens[:, 1:])), 1)
        total = cache.content.get_seq_length() + embeddings.shape[1]
        seen = F.pad(prefix.valid, (0, total - prefix.valid.shape[1]), value=True)
        positions = positions_of(seen)[:, -embeddings.shape[1] :]
        return self._run(embeddings, seen.long(), positions, tokens.shape[1], **{self.cache_name: cache.content})


MODELS = {"masked": MaskedModel, "decoder": DecoderModel, "block": BlockModel, "causal": CausalModel}
