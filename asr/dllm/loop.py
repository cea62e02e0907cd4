"""The denoising loop: a canvas becomes text in a few parallel passes (dLLM-ASR, arXiv 2601.17902).

Each pass asks the denoiser for all open positions at once and commits those of which a rule (`asr.dllm.commit`) holds
them settled. What the loop saves is switchable, so that each saving can be measured:

    pruning       the tail behind the end of the text is cut off as soon as it is found
    early exit    committed positions leave the computation, utterances without open positions leave the batch
    speech cache  keys and values of the speech are computed once
    elastic       keys and values of committed positions are refreshed where attention has drifted (asr.dllm.elastic)

Anything with `denoise(canvas, speech, ...) -> logits` can be behind it: small denoisers and large diffusion
language models alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from asr.ctc.beam import Hypothesis
from asr.dllm.caches import SpeechMemory, TextCache
from asr.dllm.canvas import Canvas
from asr.dllm.commit import Beliefs, Threshold, judged
from asr.dllm.elastic import ElasticCache
from asr.text.tokenizer import Tokenizer

MASK, END, NULL = Tokenizer.mask_id, Tokenizer.end_id, Tokenizer.null_id
PRUNING = ("none", "first", "eotp")
NEVER = -1e4  # logit of what cannot be


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the canvas; `never` are tokens no position may become, `null` is None where a model has no empty slots."""

    mask: int = MASK
    end: int = END
    null: int | None = NULL
    never: tuple[int, ...] = (Tokenizer.blank_id, MASK)


class Denoises(Protocol):
    """What the loop needs of a model; `active` and `cache` are used only where `early_exit` is on.

    A model with an attribute `computes_all` that is true is never given them: utterances leave its batch early,
    positions do not; one with a cache of its own makes it in `new_cache`. `guesses` and `sure`, what stands on the
    canvas and how probable it is, come only where the canvas has guesses.
    """

    def denoise(
        self,
        canvas: Tensor,
        speech: object,
        times: Tensor | None = None,
        valid: Tensor | None = None,
        active: Tensor | None = None,
        cache: TextCache | None = None,
        guesses: Tensor | None = None,
        sure: Tensor | None = None,
    ) -> Tensor:
        """Logits [batch, slots or m, vocabulary], which the loop writes over."""


@dataclass(frozen=True)
class DenoisingOptions:
    """Switches of the loop.

    Args:
        commit: which positions a pass settles.
        pruning: "none"; "first": behind the first committed end of text; "eotp": behind the most confident open
            position that would end the text (Learn2PD's end-of-text prediction).
        early_exit: drop committed positions and finished utterances; off, every pass computes the whole canvas
            and all `max_passes` are made.
        speech_cache: compute keys and values of the speech once, not in every pass.
        elastic: cosine similarity below which `asr.dllm.elastic` refreshes committed positions; None never does.
        max_passes: the last pass commits everything still open.
        guesses: an open slot shows what the last pass has there, to a denoiser that reads it.
    """

    commit: Callable[[Beliefs], Tensor] = field(default_factory=Threshold)
    pruning: str = "first"
    early_exit: bool = True
    speech_cache: bool = True
    elastic: float | None = None
    max_passes: int = 8
    guesses: bool = True

    def __post_init__(self):
        if self.pruning not in PRUNING:
            raise ValueError(f"pruning is {self.pruning!r}; choose one of {', '.join(PRUNING)}")
        if self.max_passes < 1:
            raise ValueError(f"max_passes is {self.max_passes}; it must be at least 1")
        if self.elastic is not None and self.elastic < 0:
            raise ValueError(f"elastic is {self.elastic}; a cosine similarity from 0 on (above 1 always refreshes)")
        if self.elastic is not None and not self.early_exit:
            raise ValueError("elastic refreshes what early_exit leaves out: it has no meaning without it")


@dataclass
class Pass:
    """One step of the trace, in the coordinates of the first canvas."""

    tokens: Tensor  # [batch, n] after the pass
    guesses: Tensor  # [batch, n] best tokens, where open before
    beliefs: Beliefs
    committed: Tensor  # [batch, n] by this pass


@dataclass
class Denoised:
    """The result of the loop.

    Attributes:
        tokens: of each utterance, special tokens left out.
        confidences: of each token, from the pass (or the draft) that settled it.
        passes: [batch] denoiser passes each utterance took part in.
        token_forwards: [batch] positions computed in all, per utterance.
        start: [batch, n] the canvas before the first pass, open slots with their guesses where it has any.
        trace: what happened, if asked for.
        nbest: hypotheses of each utterance, where a search has made several.
        special: ids of the canvas.
    """

    tokens: list[list[int]]
    confidences: list[list[float]]
    passes: Tensor
    token_forwards: Tensor
    start: Tensor
    trace: list[Pass] = field(default_factory=list)
    nbest: list[list[Hypothesis]] | None = None
    special: SpecialTokens = SpecialTokens()


@torch.inference_mode()
def denoise(
    model: Denoises,
    speech: SpeechMemory | Callable[[], SpeechMemory],
    canvas: Canvas,
    options: DenoisingOptions,
    special: SpecialTokens | None = None,
    trace: bool = False,
) -> Denoised:
    """Settle every mask of a canvas.

    Args:
        model: the denoiser.
        speech: its speech cache, or a function that makes one (called in each pass when `speech_cache` is off).
        canvas: from `asr.dllm.canvas`.
        options: switches.
        special: ids of the model's canvas tokens.
        trace: record every pass.
    """
    loop = _Loop(model, speech, canvas, options, special or SpecialTokens())
    steps = []
    while loop.is_running():
        step = loop.run_pass()
        if trace:
            steps.append(step)
    return loop.result(steps)


class _Loop:
    """State of the loop; all tensors are [batch, n] of the first canvas."""

    def __init__(self, model, speech, canvas: Canvas, options: DenoisingOptions, special: SpecialTokens):
        self.model, self.speech, self.canvas, self.options, self.special = model, speech, canvas, options, special
        self.memory = speech() if options.speech_cache and callable(speech) else speech
        self.tokens = canvas.tokens.clone()
        self.confidences = canvas.confidences.clone()
        self.valid = canvas.valid.clone()
        self.open = (self.tokens == special.mask) & self.valid
        self.fresh = torch.zeros_like(self.open)  # committed by the last pass: their keys are those of masks still
        self.number = 0
        self.passes = torch.zeros(len(self.tokens), dtype=torch.long)
        self.token_forwards = torch.zeros_like(self.passes)
        self.cache: TextCache | None = None
        self.rows = torch.arange(len(self.tokens), device=self.tokens.device)  # utterances in the batch still
        self.may_end = canvas.may_end()
        self.guesses, self.sure = canvas.guesses, canvas.sure

    def is_running(self) -> bool:
        if self.number >= self.options.max_passes:
            return False
        return bool(self.open.any()) or (not self.options.early_exit and self.number > 0)

    def run_pass(self) -> Pass:
        if self.options.early_exit:
            self._leave_batch()
        logits, where = self._logits()
        beliefs, guesses = self._beliefs(logits, where)
        committed = self.options.commit(beliefs) & self.open
        if self.number + 1 == self.options.max_passes:
            committed = self.open.clone()
        self.tokens = torch.where(committed, guesses, self.tokens)
        self.confidences = torch.where(committed, beliefs.confidence, self.confidences)
        self.fresh = committed
        if self.guesses is not None:  # what looks the same as before need not be read again
            self.fresh = committed & (guesses != self.guesses)
            seen = self.open if self.options.guesses else committed
            self.sure = torch.where(seen, beliefs.confidence, self.sure)
            self.guesses = torch.where(seen, guesses, self.guesses)
        self.open &= ~committed
        self._prune(beliefs, guesses)
        self.number += 1
        return Pass(self.tokens.clone(), guesses, beliefs, committed)

    # -- what is computed ----------------------------------------------------------------------------------

    def _leave_batch(self) -> None:
        """Utterances that are done take no part in further passes."""
        keep = self.open[self.rows].any(1)
        if keep.all():
            return
        if self.cache is not None:
            self.cache.rows(keep)
        self.rows = self.rows[keep]
        if hasattr(self.memory, "rows"):
            self.memory = self.memory.rows(keep)

    def _logits(self) -> tuple[Tensor, Tensor | None]:
        """Logits of the positions to compute and, if not all, which they are."""
        if not self.options.speech_cache and callable(self.speech):
            self.memory = self.speech()
            if len(self.rows) < len(self.tokens):
                self.memory = self.memory.rows(self.rows)
        width = int(self.valid[self.rows].sum(1).max())
        rows = self.rows
        times = None if self.canvas.times is None else self.canvas.times[rows, :width]
        valid = self.valid[rows, :width]
        self.passes[rows.cpu()] += 1
        active = None
        if self.cache is not None:
            self.cache.crop(width)
            active = self._active(rows, width)
        elif self.options.early_exit and not getattr(self.model, "computes_all", False):
            make = getattr(self.model, "new_cache", TextCache)
            self.cache = make() if self.options.elastic is None else ElasticCache(self.options.elastic)
        self.token_forwards[rows.cpu()] += width if active is None else active.shape[1]
        extra = {} if self.cache is None else {"active": active, "cache": self.cache}
        if self.guesses is not None:
            extra |= {"guesses": self.guesses[rows, :width], "sure": self.sure[rows, :width]}
        everything = bool(valid.all())
        return self.model.denoise(
            self.tokens[rows, :width], self.memory, times=times, valid=None if everything else valid, **extra
        ), active

    def _active(self, rows: Tensor, width: int) -> Tensor:
        """Positions [batch, m] that are open, or were when they were computed last."""
        chosen = (self.open | self.fresh)[rows, :width]
        if isinstance(self.cache, ElasticCache):
            settled = self.valid[rows, :width] & ~chosen
            if settled.any(1).all():
                chosen.scatter_(1, self.cache.choose(settled)[:, None], True)
            else:
                self.cache.choose(chosen)
        return _positions(chosen)

    def _beliefs(self, logits: Tensor, where: Tensor | None) -> tuple[Beliefs, Tensor]:
        """Confidence, entropy and best token of every open position, in the coordinates of the first canvas."""
        may_end = self.may_end[self.rows]
        may_end = may_end[:, : logits.shape[1]] if where is None else may_end.gather(1, where)
        found = judged(forbidden(logits.float(), may_end, self.special, NEVER))
        parts = (self._spread(part, where) for part in found)
        confidence, entropy, guesses = (torch.where(self.open, part, 0) for part in parts)
        return Beliefs(confidence, entropy, self.open.clone(), self.number), guesses

    def _spread(self, values: Tensor, where: Tensor | None) -> Tensor:
        """Values of the computed positions on the whole canvas."""
        full = values.new_zeros(self.tokens.shape)
        part = values
        if where is not None:
            part = values.new_zeros(len(self.rows), self.tokens.shape[1]).scatter_(1, where, values)
        full[self.rows, : part.shape[1]] = part
        return full

    # -- what is cut off -----------------------------------------------------------------------------------

    def _prune(self, beliefs: Beliefs, guesses: Tensor) -> None:
        if self.options.pruning == "none":
            return
        number = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        settled = (self.tokens == self.special.end) & self.valid
        cut = torch.where(settled, number, len(number)).amin(1)
        if self.options.pruning == "eotp":
            ending = beliefs.open & (guesses == self.special.end)
            surest = torch.where(ending, beliefs.confidence, -1.0).argmax(1)
            cut = torch.where(ending.any(1), torch.minimum(cut, surest), cut)
            at_cut = number == cut[:, None]
            self.tokens.masked_fill_(at_cut & self.open, self.special.end)
            self.open &= ~at_cut
        behind = number > cut[:, None]
        self.valid &= ~behind
        self.open &= ~behind

    def result(self, steps: list[Pass]) -> Denoised:
        tokens, confidences = [], []
        for row, sure, valid in zip(self.tokens.tolist(), self.confidences.tolist(), self.valid.tolist(), strict=True):
            kept = _until_end(list(zip(row, sure, valid, strict=True)), self.special)
            tokens.append([token for token, _ in kept])
            confidences.append([confidence for _, confidence in kept])
        start = self.canvas.tokens if self.canvas.guesses is None else self.canvas.guesses
        special = self.special
        return Denoised(tokens, confidences, self.passes, self.token_forwards, start, steps, special=special)


def forbidden(logits: Tensor, may_end: Tensor, special: SpecialTokens, value: float = -torch.inf) -> Tensor:
    """Logits with a value, in place, for what a position may not become.

    Args:
        logits: [batch, n, vocabulary].
        may_end: [batch, n], True where the text may end; elsewhere the position may stay empty.
    """
    logits[..., list(special.never)] = value
    logits[..., special.end].masked_fill_(~may_end, value)
    if special.null is not None:
        logits[..., special.null].masked_fill_(may_end, value)
    return logits


def _until_end(slots: list[tuple[int, float, bool]], special: SpecialTokens) -> list[tuple[int, float]]:
    kept = []
    for token, confidence, valid in slots:
        if token == special.end or not valid:
            break
        if token not in (special.null, special.mask):
            kept.append((token, confidence))
    return kept


def _positions(chosen: Tensor) -> Tensor:
    """Indices [batch, m] of the chosen positions [batch, n]; short rows repeat their first, which changes nothing."""
    count = int(chosen.sum(1).max())
    order = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    is_real = torch.arange(count, device=chosen.device) < chosen.sum(1, keepdim=True)
    return torch.where(is_real, order, order[:, :1])
