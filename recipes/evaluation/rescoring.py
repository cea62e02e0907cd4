"""Choice among the texts of a recogniser and of a correction model by weighted scores, tuned on held-out speakers."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Heard:
    """One recording: what the recogniser made of it, and candidates with their log-probabilities by kind of score."""

    reference: str
    speaker: str
    log_probabilities: object  # [frames, vocabulary]
    greedy: str
    confidence: float  # mean log-probability of the best path's frames
    lists: dict[str, list[str]] = field(default_factory=dict)  # best first
    candidates: dict[str, dict[str, float]] = field(default_factory=dict)


def hear(recogniser, recordings: list, beam_size: int) -> list[Heard]:
    """Greedy output and n-best lists without and with n-gram fusion."""
    from dataclasses import replace

    import torch
    from tqdm import tqdm

    from asr.ctc.beam import BeamOptions, greedy, prefix_beam

    plain = BeamOptions(beam_size=beam_size, lm_weight=0.0, token_bonus=0.0)
    heard = []
    for recording in tqdm(recordings, desc="recognise", unit="file", file=sys.stderr):
        with torch.inference_mode():
            log_probabilities, lengths = recogniser.log_probabilities([recording.wave()])
        best = greedy(log_probabilities, lengths, recogniser.tokenizer)[0]
        frames = log_probabilities[0, : lengths[0]].clone()
        item = Heard(recording.text, recording.speaker, frames, best.text, best.score / len(frames))
        item.lists["beam"] = _texts(prefix_beam(frames, recogniser.tokenizer, plain))
        if recogniser.lm is not None:
            fused = replace(recogniser.beam, beam_size=beam_size)
            item.lists["fusion"] = _texts(prefix_beam(frames, recogniser.tokenizer, fused, recogniser.lm))
        heard.append(item)
    return heard


def _texts(hypotheses: list) -> list[str]:
    return list(dict.fromkeys(h.text for h in hypotheses))


def score_candidates(heard: list[Heard], recogniser, dlm, lm, beam_size: int) -> None:
    """Write the DLM's beams from greedy output, and score every candidate by audio, n-gram, LM and DLM."""
    from tqdm import tqdm

    from asr.ar.rescoring import TextScorer
    from dlm.decoding import SearchOptions, score_texts, search

    for item in tqdm(heard, desc="score", unit="file", file=sys.stderr):
        item.lists["dlm"] = [s.text for s in search(dlm, [item.greedy], options=SearchOptions(beam_size=beam_size))]
        texts = list(dict.fromkeys([item.greedy, *itertools.chain(*item.lists.values())]))
        scorer = TextScorer(item.log_probabilities, recogniser.tokenizer, lambda: recogniser.lm)
        columns = {
            "asr": scorer(texts),
            "dlm": score_texts(dlm, [item.greedy] * len(texts), texts),
            "words": [len(text.split()) for text in texts],
        }
        if recogniser.lm is not None:
            columns["ngram"] = scorer.language(texts)
        if lm is not None:
            columns["lm"] = score_texts(lm, texts, texts)
        item.candidates = {
            text: dict(zip(columns, values, strict=True))
            for text, values in zip(texts, zip(*columns.values(), strict=True), strict=True)
        }


@dataclass(frozen=True)
class Rescoring:
    """Choice among the candidates of some lists by log p(text | audio) and weighted other scores.

    The greedy hypothesis is always a candidate, and weight 0 is in every grid.
    """

    lists: tuple[str, ...]
    grids: dict[str, tuple[float, ...]]  # by kind of score

    def tune(self, heard: list[Heard]) -> dict[str, float]:
        """The weights with the fewest word errors; the smallest ones where several have as few."""
        tables = [self._table(item) for item in heard]
        best, chosen = None, {}
        for weights in itertools.product(*self.grids.values()):
            errors = sum(int(errors[np.argmax(scores @ (1.0, *weights))]) for scores, errors in tables)
            key = (errors, sum(map(abs, weights)))
            if best is None or key < best:
                best, chosen = key, dict(zip(self.grids, weights, strict=True))
        return chosen

    def apply(self, heard: list[Heard], weights: dict[str, float]) -> list[str]:
        chosen = []
        for item in heard:
            texts = self.texts(item)
            scores = self._scores(item, texts) @ (1.0, *(weights[kind] for kind in self.grids))
            chosen.append(texts[int(np.argmax(scores))])
        return chosen

    def texts(self, item: Heard) -> list[str]:
        return list(dict.fromkeys([item.greedy, *itertools.chain(*(item.lists[name] for name in self.lists))]))

    def oracle(self, heard: list[Heard]) -> float:
        """WER of the best candidate of each recording."""
        errors = sum(int(word_errors(item.reference, self.texts(item)).min()) for item in heard)
        return errors / sum(len(item.reference.split()) for item in heard)

    def _table(self, item: Heard) -> tuple[np.ndarray, np.ndarray]:
        """Scores [candidates, kinds] and word errors [candidates] of one recording."""
        texts = self.texts(item)
        return self._scores(item, texts), word_errors(item.reference, texts)

    def _scores(self, item: Heard, texts: list[str]) -> np.ndarray:
        kinds = ("asr", *self.grids)
        return np.maximum(np.array([[item.candidates[t][kind] for kind in kinds] for t in texts], float), -1e9)


def word_errors(reference: str, hypotheses: list[str]) -> np.ndarray:
    """Word-level Levenshtein distance of each hypothesis."""
    from rapidfuzz.distance import Levenshtein

    return np.array([Levenshtein.distance(reference.split(), text.split()) for text in hypotheses])
