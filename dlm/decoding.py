"""Decoding with a correction model: greedy, beam and DLM-sum search, scores of given texts, choice among candidates.

All searches are label-synchronous and batched: over hypotheses in `greedy`, over beams in `search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.ar.rescoring import CTCPrefixScorer
from dlm.model import DenoisingLM, padded

FORBIDDEN = (0, 1, 3)  # special ids that are never written: blank (padding), mask, null


@dataclass(frozen=True)
class Scored:
    """A text written by a model; `score` is its log-probability (and CTC's share, where that took part)."""

    text: str
    score: float
    tokens: tuple[int, ...] = ()


def longest_output(source_tokens: int) -> int:
    """Tokens a correction may have: half as many again as the hypothesis, and some for short ones."""
    return source_tokens * 3 // 2 + 10


def encode(model: DenoisingLM, texts: Sequence[str]) -> Tensor:
    """Source tokens [texts, positions]: each text and the end token, padded with 0."""
    rows = [[*tokens, model.units.end_id] for tokens in model.units.encode_batch(list(texts))]
    return padded(rows).to(model.embedding.weight.device)


@torch.inference_mode()
def score_texts(
    model: DenoisingLM, hypotheses: Sequence[str], texts: Sequence[str], batch_size: int = 64
) -> list[float]:
    """log p(text | hypothesis) of each pair, in order; a language model ignores the hypotheses."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    scores = [0.0] * len(texts)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        ends = [[model.units.end_id]] * len(chosen)
        bodies = model.units.encode_batch([texts[i] for i in chosen])
        target = padded([end + body + end for end, body in zip(ends, bodies, strict=True)])
        target = target.to(model.embedding.weight.device)
        source = encode(model, [hypotheses[i] for i in chosen]) if model.encoder else None
        wanted = target[:, 1:]
        each = model(source, target[:, :-1]).gather(-1, wanted[..., None])[..., 0] * (wanted != 0)
        for i, score in zip(chosen, each.sum(1).tolist(), strict=True):
            scores[i] = score
    return scores


@torch.inference_mode()
def greedy(model: DenoisingLM, hypotheses: Sequence[str], batch_size: int = 32) -> list[Scored]:
    """The most probable next token again and again, from each hypothesis; batched by length."""
    order = sorted(range(len(hypotheses)), key=lambda i: len(hypotheses[i]))
    results: list[Scored] = [Scored("", 0.0)] * len(hypotheses)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        for i, result in zip(chosen, _greedy_batch(model, [hypotheses[i] for i in chosen]), strict=True):
            results[i] = result
    return results


def _greedy_batch(model: DenoisingLM, hypotheses: list[str]) -> list[Scored]:
    source = encode(model, hypotheses)
    limits = longest_output((source != 0).sum(1))
    state, end = model.start(source, len(hypotheses)), model.units.end_id
    last = torch.full_like(limits, end)
    total, written = torch.zeros(len(hypotheses), device=source.device), []
    alive = torch.ones_like(limits, dtype=torch.bool)
    for position in range(int(limits.max()) + 1):
        scores, state = model.step(last, state)
        scores[:, FORBIDDEN] = -torch.inf
        best, last = scores.max(-1)
        last = torch.where(alive & (position < limits), last, end)
        total += torch.where(alive, scores.gather(1, last[:, None])[:, 0], 0.0)
        alive = alive & (last != end)
        if not alive.any():
            break
        written.append(last)
    rows = torch.stack(written, 1).tolist() if written else [[] for _ in hypotheses]
    tokens = [row[: row.index(end)] if end in row else row for row in rows]
    return [Scored(model.units.decode(t), score, tuple(t)) for t, score in zip(tokens, total.tolist(), strict=True)]


@dataclass(frozen=True)
class SearchOptions:
    """Settings of the label-synchronous search.

    Args:
        beam_size: texts kept after each token.
        ctc_scale: weight of the CTC prefix score in DLM-sum; 0 leaves the audio out.
        length_power: finished texts compare by score / tokens ** length_power.
        candidates: tokens of a text for which the CTC prefix score is worked out.
    """

    beam_size: int = 8
    ctc_scale: float = 0.0
    length_power: float = 0.0
    candidates: int = 12


@torch.inference_mode()
def search(
    model: DenoisingLM,
    hypotheses: Sequence[str],
    log_weights: Sequence[float] = (0.0,),
    options: SearchOptions | None = None,
    ctc: CTCPrefixScorer | None = None,
) -> list[Scored]:
    """Beam search over texts under the sum over hypotheses of weight * p(text | hypothesis).

    One hypothesis gives plain beam search; several give DLM-sum (arXiv 2512.13576, Sec. 3), where the sum is taken
    anew at every token, over the probabilities of the whole prefix.

    Args:
        model: correction model.
        hypotheses: K texts, best first.
        log_weights: K log-weights; they are renormalised to sum to one.
        options: beam and scales.
        ctc: scorer of the audio over the same units, used when `options.ctc_scale` is not 0.

    Returns:
        finished texts, best first, at most `beam_size`.
    """
    options = options or SearchOptions()
    source = encode(model, hypotheses)
    limit = longest_output(int((source != 0).sum(1).max()))
    weights = torch.tensor(log_weights, device=source.device).log_softmax(0)
    beams = _Beams(model, source, weights, options, ctc if options.ctc_scale else None)
    finished: list[tuple[float, Scored]] = []
    for position in range(limit + 1):
        finished += beams.advance(only_end=position == limit)
        finished.sort(key=lambda pair: -pair[0])
        del finished[options.beam_size :]
        if not len(beams.scores) or (len(finished) == options.beam_size and beams.cannot_beat(finished[-1][0])):
            break
    return [scored for _, scored in finished]


class _Beams:
    """The unfinished texts of one search; K model rows belong to each, beam after beam."""

    def __init__(
        self, model: DenoisingLM, source: Tensor, weights: Tensor, options: SearchOptions, ctc: CTCPrefixScorer | None
    ):
        self.model, self.options, self.ctc, self.weights = model, options, ctc, weights
        self.state = model.start(source, len(source))
        self.prefix = torch.zeros(1, len(source), device=source.device)  # log p(prefix | hypothesis) [beams, K]
        self.tokens: list[tuple[int, ...]] = [()]
        self.scores = torch.zeros(1, device=source.device)
        self.ctc_state = ctc.start() if ctc else None

    def advance(self, only_end: bool) -> list[tuple[float, Scored]]:
        """Write one token more everywhere; returns the texts that ended, with what they compare by."""
        end, count = self.model.units.end_id, len(self.weights)
        last = torch.tensor([t[-1] if t else end for t in self.tokens], device=self.scores.device)
        step, self.state = self.model.step(last.repeat_interleave(count), self.state)
        prefix = self.prefix[..., None] + step.view(len(self.tokens), count, -1)  # [beams, K, units]
        totals = (prefix + self.weights[:, None]).logsumexp(1)
        totals[:, FORBIDDEN] = -torch.inf
        if only_end:
            totals[:, [i for i in range(totals.shape[1]) if i != end]] = -torch.inf
        totals, ctc_states, places = self._with_ctc(totals, last)

        finished = []
        for beam, score in enumerate(totals[:, end].tolist()):
            if score > -torch.inf:
                tokens = self.tokens[beam]
                compared = score / (len(tokens) + 1) ** self.options.length_power
                finished.append((compared, Scored(self.model.units.decode(tokens), score, tokens)))
        totals[:, end] = -torch.inf
        best, flat = totals.flatten().topk(min(self.options.beam_size, totals.numel()))
        flat, self.scores = flat[best > -torch.inf], best[best > -torch.inf]
        beams, units = flat // totals.shape[1], flat % totals.shape[1]
        if places is not None and len(flat):
            slots = (places[beams] == units[:, None]).int().argmax(1)
            self.ctc_state = ctc_states[beams.cpu(), slots.cpu()]
        self.prefix = prefix[beams, :, units]
        self.tokens = [(*self.tokens[b], u) for b, u in zip(beams.tolist(), units.tolist(), strict=True)]
        rows = beams[:, None] * count + torch.arange(count, device=beams.device)
        self.state = self.state.select(rows.flatten())
        return finished

    def _with_ctc(self, totals: Tensor, last: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Add the scaled CTC prefix score; only the candidates it was worked out for (and the end) stay."""
        if self.ctc is None:
            return totals, None, None
        end = self.model.units.end_id
        masked = totals.clone()
        masked[:, end] = torch.inf  # always among the candidates
        places = masked.topk(min(self.options.candidates + 1, totals.shape[1])).indices
        scores, states = self.ctc.extend(self.ctc_state, last.cpu(), places.cpu())
        result = torch.full_like(totals, -torch.inf)
        audio = self.options.ctc_scale * scores.to(totals)
        return result.scatter(1, places, totals.gather(1, places) + audio), states, places

    def cannot_beat(self, worst: float) -> bool:
        """Whether every unfinished text compares worse already; exact without length normalisation."""
        return float(self.scores.max()) / (len(self.tokens[0]) + 1) ** self.options.length_power <= worst


def choose(candidates: Sequence[str], scores: Sequence[tuple[float, Sequence[float]]], bonus: float = 0.0) -> int:
    """Denoising-scoring-rescoring (DSR, arXiv 2405.15216, Sec. 3.2): index of the candidate with the best sum.

    Args:
        candidates: texts.
        scores: (weight, log-probability of each candidate) by the recogniser, the correction model ...; weight 0
            leaves the choice to the others.
        bonus: added for each word.
    """
    totals = [bonus * len(text.split()) for text in candidates]
    for weight, column in scores:
        # 0 * -inf would be NaN: a text without a path under CTC is out only where CTC counts.
        totals = [total + weight * value if weight else total for total, value in zip(totals, column, strict=True)]
    return max(range(len(totals)), key=totals.__getitem__)
