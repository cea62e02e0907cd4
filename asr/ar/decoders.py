"""The autoregressive twin as a part of a recogniser: writing, verifying the draft, searching with the n-gram, judging.

One set of decoders serves every model with `remember`, `extend` and `denoise` (causal): the Conformer's twin, the
decoder of the hybrid recogniser and causal language models. A model with a vocabulary of its own says so by `tokens`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from asr.ar.greedy import Writes, decode_greedily, decode_speculatively, marks_of, score_sequences
from asr.ar.search import FusionOptions, HotwordAdvice, NGramAdvice, search_tokens
from asr.ctc.beam import BeamOptions, Hypothesis, prefix_beam
from asr.ctc.ngram import NGram
from asr.dllm.canvas import ctc_draft
from asr.dllm.decoder import SharedTokens
from asr.parts import Decoded, Listened, Vocabulary
from asr.text.hotwords import Hotwords
from asr.text.tokenizer import Tokenizer


@dataclass
class TwinDecoder:
    """Token by token, plain or verifying the CTC draft."""

    twin: Writes
    units: Tokenizer | None = None  # of the CTC branch; needed where the twin's tokens are others
    speculative: bool = False

    def __post_init__(self):
        self.twin.eval()  # once: asking every part takes as long as a word

    @property
    def vocabulary(self) -> Vocabulary:
        return getattr(self.twin, "tokens", None) or SharedTokens(self.units)

    @torch.inference_mode()
    def __call__(self, heard: Listened) -> Decoded:
        if not self.speculative:
            return decode_greedily(self.twin, self.twin.remember(heard.hidden, heard.lengths))
        return Decoded.joined([self._verify(heard.row(i)) for i in range(len(heard.posteriors))])

    def _verify(self, heard: Listened) -> Decoded:
        draft = self.vocabulary.translate(ctc_draft(heard.posteriors[0]), self.units)
        return decode_speculatively(self.twin, self.twin.remember(heard.hidden, heard.lengths), draft.tokens)


@dataclass
class FusedTwin:
    """The twin's beam search with the recogniser's n-gram (`asr.ar.search`), over the units of both.

    Raises:
        ValueError: the twin has tokens of its own.
    """

    twin: Writes
    vocabulary: Tokenizer
    lm: Callable[[], NGram | None]
    options: FusionOptions = FusionOptions()

    def __post_init__(self):
        if getattr(self.twin, "tokens", None):
            raise ValueError("decoder 'fused': the n-gram is over CTC units, this model writes in tokens of its own")
        if self.lm() is None:
            raise ValueError("decoder 'fused' needs a recogniser with a language model (ngram.npz); this one has none")

    @torch.inference_mode()
    def __call__(self, heard: Listened) -> Decoded:
        advice, decode = NGramAdvice(self.lm(), self.options), self.vocabulary.decode
        rows = [heard.row(i) for i in range(len(heard.posteriors))]
        speeches = [self.twin.remember(row.hidden, row.lengths) for row in rows]
        found = [search_tokens(self.twin, speech, decode, advice, self.options.beam_size) for speech in speeches]
        passes = torch.tensor([n for _, n in found])
        return Decoded.chosen([texts for texts, _ in found], passes, passes * self.options.beam_size)


@dataclass
class BiasedTwin:
    """The twin's beam search with names to expect (`asr.text.hotwords`): greedy writing cannot take a name back."""

    twin: Writes
    vocabulary: Vocabulary
    hotwords: Hotwords  # in that vocabulary
    beam_size: int = 4

    @torch.inference_mode()
    def __call__(self, heard: Listened) -> Decoded:
        return Decoded.joined([self._written(heard.row(i)) for i in range(len(heard.posteriors))])

    def _written(self, heard: Listened) -> Decoded:
        speech = self.twin.remember(heard.hidden, heard.lengths)
        advice = HotwordAdvice(self.hotwords, marks_of(self.twin).end)
        found, passes = search_tokens(self.twin, speech, self.vocabulary.decode, advice, self.beam_size, True)
        sure = [math.exp(score) for score in found[0].token_scores]
        counts = torch.tensor([passes]), torch.tensor([passes * self.beam_size])
        return Decoded([found[0].tokens], [sure], *counts)


@dataclass
class RescoredBeam:
    """The recogniser's beam search with its n-gram; the twin then judges all its texts in one parallel pass.

    The two-pass decoding of U2 (Zhang et al. 2020, arXiv 2012.05481, Sec. 3.3): log-probability of the search plus
    `weight` times that of the twin, which reads the texts in its own tokens.
    """

    twin: Writes
    vocabulary: Tokenizer  # of the texts: the units of the CTC branch
    beam: BeamOptions
    lm: Callable[[], NGram | None]
    weight: float = 0.5

    @torch.inference_mode()
    def __call__(self, heard: Listened) -> Decoded:
        nbest = [self._judged(heard.row(i)) for i in range(len(heard.posteriors))]
        judged = torch.tensor([sum(len(h.tokens) + 1 for h in hypotheses) for hypotheses in nbest])
        return Decoded.chosen(nbest, torch.ones_like(judged), judged)

    def _judged(self, heard: Listened) -> list[Hypothesis]:
        """The beam's hypotheses of one utterance, best first."""
        found = prefix_beam(heard.posteriors[0], self.vocabulary, self.beam, self.lm())
        own = getattr(self.twin, "tokens", None)
        texts = [own.encode(h.text) if own else h.tokens for h in found]
        speech = self.twin.remember(heard.hidden, heard.lengths)
        scores = score_sequences(self.twin, speech, texts).tolist()
        judged = [dataclasses.replace(h, score=h.score + self.weight * s) for h, s in zip(found, scores, strict=True)]
        return sorted(judged, key=lambda hypothesis: -hypothesis.score)
