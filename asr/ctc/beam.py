"""Decoding CTC posteriors: greedy and prefix beam search with n-best lists."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from asr.ctc.ngram import NGram
from asr.text.hotwords import ROOT, Hotwords
from asr.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Hypothesis:
    """A transcription: token ids, their text and a log-probability (of the path for greedy, of the text for beam).

    `token_scores` are log-probabilities of the tokens where the decoder itself has them.
    """

    tokens: list[int]
    text: str
    score: float
    token_scores: list[float] | None = None


def collapse(path: list[int], blank: int = 0) -> list[int]:
    """CTC path to tokens: repeats merged, blanks dropped."""
    return [t for t, before in zip(path, [blank, *path], strict=False) if t != blank and t != before]


def best_path(log_probabilities: Tensor, tokenizer: Tokenizer) -> Hypothesis:
    """The text of the best CTC path of log_probabilities [frames, vocabulary]."""
    best, path = log_probabilities.max(-1)
    tokens = collapse(path.tolist())
    return Hypothesis(tokens, tokenizer.decode(tokens), float(best.sum()))


def greedy(log_probabilities: Tensor, lengths: Tensor, tokenizer: Tokenizer) -> list[Hypothesis]:
    """Best path of each utterance of log_probabilities [batch, frames, vocabulary] with lengths [batch]."""
    pairs = zip(log_probabilities, lengths.tolist(), strict=True)
    return [best_path(frames[:length], tokenizer) for frames, length in pairs]


@dataclass(frozen=True)
class BeamOptions:
    """Settings of the prefix beam search.

    Args:
        beam_size: prefixes kept after each frame.
        lm_weight: factor on the language model's log-probability.
        token_bonus: added for each token, against the language model's taste for short texts.
        candidates: at most this many tokens extend a prefix in one frame.
        threshold: tokens this many nats below the frame's best are not tried.
    """

    beam_size: int = 16
    lm_weight: float = 0.5
    token_bonus: float = 0.6
    candidates: int = 16
    threshold: float = 7.0


class _Prefix:
    """A node in the tree of prefixes: its last token, its language-model context, its place among the hotwords, the
    score of both, and its two forward log-probabilities, of the paths that end in blank and of those that end in the
    last token."""

    __slots__ = (
        "parent",
        "token",
        "children",
        "context",
        "name",
        "prior",
        "blank",
        "label",
        "new_blank",
        "new_label",
        "touched",
    )

    def __init__(self, parent: _Prefix | None, token: int, context: tuple[int, ...], name: int, prior: float):
        self.parent, self.token, self.context, self.name, self.prior = parent, token, context, name, prior
        self.children: dict[int, _Prefix] = {}
        self.blank = self.label = self.new_blank = self.new_label = -math.inf
        self.touched = -1

    def child(self, token: int, lm: NGram | None, options: BeamOptions, hotwords: Hotwords | None) -> _Prefix:
        node = self.children.get(token)
        if node is None:
            prior, context, name = self.prior + options.token_bonus, self.context, self.name
            if lm is not None:
                prior += options.lm_weight * float(lm.distribution(context)[token])
                context = (*context, token)[1 - lm.order :]
            if hotwords is not None:
                name, gain = hotwords.step(name, token)
                prior += gain
            node = self.children[token] = _Prefix(self, token, context, name, prior)
        return node

    def tokens(self) -> list[int]:
        node, tokens = self, []
        while node.parent is not None:
            tokens.append(node.token)
            node = node.parent
        return tokens[::-1]


def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))


def prefix_beam(
    log_probabilities: Tensor,
    tokenizer: Tokenizer,
    options: BeamOptions | None = None,
    lm: NGram | None = None,
    hotwords: Hotwords | None = None,
) -> list[Hypothesis]:
    """CTC prefix beam search (Hannun et al. 2014) with optional n-gram fusion.

    Args:
        log_probabilities: [frames, vocabulary] of one utterance, blank at index 0.
        tokenizer: turns tokens into text.
        options: beam, weights and pruning.
        lm: language model over the same vocabulary.
        hotwords: names to expect, in the same vocabulary.

    Returns:
        hypotheses, best first, at most `beam_size`; the score is the log-probability of the text under CTC
        plus the weighted language model, bonus and what hotwords earn.
    """
    options = options or BeamOptions()
    root = _Prefix(None, 0, lm.start() if lm else (), ROOT, 0.0)
    root.blank = 0.0
    beam = [root]
    for number, (frame, tokens) in enumerate(_candidates(log_probabilities.numpy(), options)):
        beam = _advance(beam, number, frame, tokens, lm, options, hotwords)
    final = []
    for node in beam:
        ending = options.lm_weight * float(lm.distribution(node.context)[lm.end_id]) if lm else 0.0
        ending += hotwords.ending(node.name) if hotwords else 0.0
        final.append((log_add(node.blank, node.label) + node.prior + ending, node))
    final.sort(key=lambda pair: -pair[0])
    return [Hypothesis(node.tokens(), tokenizer.decode(node.tokens()), score) for score, node in final]


def _candidates(log_probabilities: np.ndarray, options: BeamOptions) -> Iterator[tuple[list[float], list[int]]]:
    """For each frame its log-probabilities and the non-blank tokens worth trying."""
    count = min(options.candidates, log_probabilities.shape[1] - 1)
    best = np.argpartition(-log_probabilities[:, 1:], count - 1, axis=1)[:, :count] + 1
    limit = log_probabilities.max(1) - options.threshold
    for frame, tokens, floor in zip(log_probabilities, best, limit, strict=True):
        yield frame.tolist(), [int(t) for t in tokens if frame[t] > floor]


def _advance(
    beam: list[_Prefix],
    number: int,
    frame: list[float],
    tokens: list[int],
    lm: NGram | None,
    options: BeamOptions,
    hotwords: Hotwords | None,
) -> list[_Prefix]:
    """Extend every prefix of the beam by one frame and keep the best."""
    reached: list[_Prefix] = []
    # What a hotword lifts over the threshold is tried as well.
    lifted = max(frame) - options.threshold - hotwords.strength if hotwords else 0.0

    def touch(node: _Prefix) -> _Prefix:
        if node.touched != number:
            node.touched, node.new_blank, node.new_label = number, -math.inf, -math.inf
            reached.append(node)
        return node

    for node in beam:
        total = log_add(node.blank, node.label)
        touch(node)
        node.new_blank = log_add(node.new_blank, total + frame[0])
        if node.parent is not None:
            node.new_label = log_add(node.new_label, node.label + frame[node.token])
        more = [t for t in hotwords.children[node.name] if t not in tokens and frame[t] > lifted] if hotwords else []
        for token in [*tokens, *more]:
            # The same token again begins a new one only after a blank.
            source = node.blank if token == node.token else total
            if source > -math.inf:
                child = touch(node.child(token, lm, options, hotwords))
                child.new_label = log_add(child.new_label, source + frame[token])
    for node in reached:
        node.blank, node.label = node.new_blank, node.new_label
    return heapq.nlargest(options.beam_size, reached, key=lambda n: log_add(n.blank, n.label) + n.prior)
