"""dLLM-ASR as a part of a recogniser: the CTC draft on a canvas, denoised in a few passes.

One decoder serves every model with `hear` and `denoise`: the Conformer's denoiser, which writes in the units of the CTC
branch, and pretrained language models, which have a vocabulary of their own (`tokens`) into which the draft is put.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from asr.ctc.beam import BeamOptions, prefix_beam
from asr.ctc.ngram import NGram
from asr.dllm.canvas import BLANK, Canvas, CanvasOptions, Draft, aligned_draft, ctc_draft, lay_out
from asr.dllm.choices import DenoisingDecode
from asr.dllm.commit import commit_rule
from asr.dllm.loop import MASK, NULL, Denoised, DenoisingOptions, SpecialTokens, denoise, forbidden
from asr.dllm.slot_search import SlotSearchOptions, search_slots
from asr.dllm.slots import slots_in_time
from asr.parts import Listened, Vocabulary
from asr.text.tokenizer import Tokenizer

SETTLED = -100.0  # log-probability that a token which the draft has settled is another


class CanvasVocabulary(Vocabulary, Protocol):
    """A vocabulary that canvases are written in."""

    null: int | None  # the empty slot, where there is one

    def special(self, slots: bool) -> SpecialTokens:
        """Ids of the canvas, with or without empty slots.

        Raises:
            ValueError: slots without a token for them.
        """

    def translate(self, draft: Draft, units: Tokenizer) -> Draft:
        """A draft in CTC units as one in these tokens."""


class SharedTokens:
    """The vocabulary of the Conformer's denoiser: that of the CTC branch, so that drafts stay what they are."""

    null = NULL

    def __init__(self, units: Tokenizer):
        self.encode, self.decode, self.starts_word, self.piece = (
            units.encode, units.decode, units.starts_word, units.piece
        )  # fmt: skip

    def special(self, slots: bool) -> SpecialTokens:
        # Without empty slots every mask must become a token.
        return SpecialTokens() if slots else SpecialTokens(null=None, never=(BLANK, MASK, NULL))

    def translate(self, draft: Draft, units: Tokenizer) -> Draft:
        return draft


class DenoisingDecoder:
    """See the module's docstring.

    Args:
        denoiser: has `hear(heard, cached) -> speech` and `denoise(canvas, speech, ...) -> logits`, `decode` (choices of
            its own) and, with a vocabulary of its own, `tokens`.
        units: vocabulary of the CTC branch.
        choices: fields of `DenoisingDecode` other than the model's own.
        beam, lm: options and language model (given when called) of the "beam" prior and the search.
        filter_folder: trained filter for the commit rule "learned".

    Raises:
        ValueError: choices that do not go together, or that the model cannot follow.
    """

    def __init__(
        self,
        denoiser,
        units: Tokenizer,
        choices: dict | None = None,
        beam: BeamOptions | None = None,
        lm: Callable[[], NGram | None] = lambda: None,
        filter_folder: str | Path | None = None,
    ):
        self.denoiser, self.units = denoiser.eval(), units
        own = getattr(denoiser, "tokens", None)
        self.vocabulary: CanvasVocabulary = own or SharedTokens(units)
        given = {"slots": self.vocabulary.null is not None, **denoiser.decode, **(choices or {})}
        self.choices = DenoisingDecode(**given)
        if self.choices.elastic is not None and getattr(denoiser, "computes_all", False):
            raise ValueError("elastic refreshes what a pass leaves out; this model computes the whole canvas in each")
        if self.choices.elastic is not None and hasattr(denoiser, "new_cache"):
            raise ValueError("elastic: this model reads its text anew where it changes and has nothing to refresh")
        if self.choices.search == "ngram" and own:
            raise ValueError("search=ngram: the n-gram is over CTC units, this model writes in tokens of its own")
        self.canvas_options = self.choices.part(CanvasOptions)
        self.options = self.choices.part(DenoisingOptions, commit=commit_rule(self.choices.commit, filter_folder))
        self.special = self.vocabulary.special(self.choices.slots)
        self.beam, self.lm = beam or BeamOptions(), lm
        self.keep_trace = False
        if self.choices.search == "ngram" and lm() is None:
            raise ValueError("search=ngram needs a recogniser with a language model (ngram.npz); this one has none")

    def drafts(self, posteriors: list[Tensor]) -> list[Draft]:
        """The prior of each utterance, in the model's tokens."""
        penalty = self.choices.blank_penalty
        found = (ctc_draft(f, penalty) if self.choices.prior == "ctc" else self._searched(f) for f in posteriors)
        return [self.vocabulary.translate(draft, self.units) for draft in found]

    def _searched(self, frames: Tensor) -> Draft:
        for hypothesis in prefix_beam(frames, self.units, self.beam, self.lm()):
            try:
                return aligned_draft(frames, hypothesis.tokens)
            except ValueError:  # longer than the speech: the next best
                continue
        return ctc_draft(frames)

    def canvas(self, drafts: list[Draft] | None, batch: int) -> Canvas:
        """The canvas of each utterance; without drafts, masks only."""
        if drafts is None:
            return Canvas.empty([self.choices.length] * batch, self.special.mask)
        options, special = self.canvas_options, self.special
        if options.layout == "order":
            return Canvas.of([lay_out(draft, options, special.mask) for draft in drafts], pad=special.end)
        layouts = [slots_in_time(draft, special.null, options.hop) for draft in drafts]
        hidden = None if options.guesses else special.null
        return Canvas.of(layouts, pad=special.null).with_open(options.threshold, special.mask, hidden)

    @torch.inference_mode()
    def __call__(self, heard: Listened) -> Denoised:
        """Tokens and confidences of a batch."""
        drafts = None if self.choices.prior == "none" else self.drafts(heard.posteriors)
        canvas = self.canvas(drafts, len(heard.posteriors)).to(heard.hidden.device)
        speech = partial(self.denoiser.hear, heard, self.choices.speech_cache)
        if self.choices.search == "ngram":
            return self._search(speech(), canvas)
        return denoise(self.denoiser, speech, canvas, self.options, self.special, self.keep_trace)

    def _search(self, speech: object, canvas: Canvas) -> Denoised:
        """One pass over the canvas, then the texts that denoiser and n-gram like best together."""
        lm = self.lm()
        may_end, special = canvas.may_end(), self.special
        logits = self.denoiser.denoise(canvas.tokens, speech, canvas.times, canvas.valid)
        scores = forbidden(logits.float(), may_end, special).log_softmax(-1)
        settled = (canvas.tokens != special.mask).unsqueeze(-1)
        given = torch.full_like(scores, SETTLED).scatter(-1, canvas.tokens.unsqueeze(-1), 0.0)
        scores = torch.where(settled, given, scores)
        empty = torch.where(may_end, scores[..., special.end], scores[..., NULL])
        options = self.choices.part(SlotSearchOptions)
        nbest = [
            search_slots(row[:n].numpy(), nothing[:n].numpy(), self.units, lm, options)
            for row, nothing, n in zip(scores.cpu(), empty.cpu(), canvas.valid.sum(1).tolist(), strict=True)
        ]
        tokens = [hypotheses[0].tokens for hypotheses in nbest]
        ones, slots = torch.ones(len(nbest), dtype=torch.long), canvas.valid.sum(1).cpu()
        return Denoised(tokens, [[] for _ in nbest], ones, slots, canvas.tokens, nbest=nbest)
