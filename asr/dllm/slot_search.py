"""Search over the slots of a denoised canvas with an n-gram language model.

One denoiser pass gives every slot a distribution over tokens and emptiness. A beam over slots then finds the text
that denoiser and language model like best together, as prefix beam search does over frames; there are far fewer slots
than frames. An extension: the paper has a language model large enough to do without.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from asr.ctc.beam import Hypothesis, log_add
from asr.ctc.ngram import NGram
from asr.text.tokenizer import SPECIAL, Tokenizer


@dataclass(frozen=True)
class SlotSearchOptions:
    """Settings of the search.

    Args:
        beam_size: texts kept after each slot.
        lm_weight: factor on the language model's log-probability.
        token_bonus: added for each token, against the language model's taste for short texts.
        candidates: at most so many tokens are tried in a slot ...
        nats: ... and none that is so much less probable than the slot's best.
    """

    beam_size: int = 16
    lm_weight: float = 0.8
    token_bonus: float = 3.6
    candidates: int = 8
    nats: float = 7.0

    def __post_init__(self):
        for name in ("beam_size", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def search_slots(
    log_probabilities: np.ndarray, empty: np.ndarray, tokenizer: Tokenizer, lm: NGram, options: SlotSearchOptions
) -> list[Hypothesis]:
    """Texts of one canvas, best first, at most `beam_size`.

    Args:
        log_probabilities: [slots, vocabulary] of the denoiser.
        empty: [slots] log-probability that the slot gives no token.
        tokenizer: vocabulary of both models.
        lm: n-gram over it.
        options: beam and weights.

    The score of a text is the log-probability of its slots, summed over the ways to place it, plus the weighted
    language model and the bonus.
    """
    start, order = lm.start(), lm.order
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, 0.0)}  # tokens: (slots, language model and bonus)
    count = min(options.candidates, log_probabilities.shape[1] - len(SPECIAL))
    best = np.argpartition(-log_probabilities[:, len(SPECIAL) :], count - 1, axis=1)[:, :count] + len(SPECIAL)
    floors = np.maximum(log_probabilities.max(1), empty) - options.nats
    for row, tokens, nothing, floor in zip(log_probabilities, best, empty.tolist(), floors, strict=True):
        chosen = [(int(t), float(row[t])) for t in tokens if row[t] > floor]
        reached: dict[tuple[int, ...], tuple[float, float]] = {}
        for text, (slots, prior) in beam.items():
            _reach(reached, text, slots + nothing, prior)
            if not chosen:
                continue
            context = lm.distribution((*start, *text)[1 - order :])
            for token, score in chosen:
                longer = (*text, token)
                added = options.lm_weight * float(context[token]) + options.token_bonus
                _reach(reached, longer, slots + score, prior + added)
        beam = dict(heapq.nlargest(options.beam_size, reached.items(), key=lambda item: sum(item[1])))
    final = []
    for text, scores in beam.items():
        ending = options.lm_weight * float(lm.distribution((*start, *text)[1 - order :])[lm.end_id])
        final.append((sum(scores) + ending, list(text)))
    final.sort(key=lambda pair: -pair[0])
    return [Hypothesis(tokens, tokenizer.decode(tokens), score) for score, tokens in final]


def _reach(beam: dict, text: tuple[int, ...], slots: float, prior: float) -> None:
    """Add the probability of one more way to place a text."""
    known = beam.get(text)
    beam[text] = (log_add(known[0], slots) if known else slots, prior)
