"""Word times and word confidence from CTC posteriors."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torchaudio.functional
from torch import Tensor

from asr.output.transcript import Word
from asr.text.tokenizer import normalise_text

MAX_TAIL = 0.12  # seconds: CTC emits a token at its onset; a word sounds on after its last token


def align_tokens(log_probabilities: Tensor, tokens: list[int]) -> list[tuple[int, int, float]]:
    """Viterbi alignment of tokens [n] to log_probabilities [frames, vocabulary] with blank 0.

    Returns:
        for each token its first frame, the frame after its last, and its mean log-probability there.

    Raises:
        ValueError: the tokens (and a blank between equal neighbours) do not fit into the frames.
    """
    if not tokens:
        return []
    needed = len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    if needed > len(log_probabilities):
        raise ValueError(f"{len(tokens)} tokens need {needed} frames to align: the speech has {len(log_probabilities)}")
    path, scores = torchaudio.functional.forced_align(
        log_probabilities[None].float().contiguous(), torch.tensor([tokens], dtype=torch.int32)
    )
    spans = torchaudio.functional.merge_tokens(path[0], scores[0])
    return [(span.start, span.end, span.score) for span in spans]


def align_words(
    log_probabilities: Tensor,
    tokens: list[int],
    tokenizer,
    hop_seconds: float,
    calibration: tuple[float, float] = (1.0, 0.0),
    scores: list[float] | None = None,
) -> list[Word]:
    """Words of a tokenised text with start, end (seconds) and confidence.

    Args:
        log_probabilities: [frames, vocabulary].
        tokens: the hypothesis as token ids.
        tokenizer: has `decode(ids)` and `starts_word(id)`.
        hop_seconds: seconds per frame.
        calibration: slope and offset on the log-odds of the raw confidence, fitted on held-out words.
        scores: log-probability of each token by the decoder that wrote it; None takes those of the alignment.
    """
    spans = _spans(log_probabilities, tokens)
    scores = scores or [score for *_, score in spans]
    groups: list[list[int]] = []
    for index, token in enumerate(tokens):
        if not groups or tokenizer.starts_word(token):
            groups.append([])
        groups[-1].append(index)
    words = []
    limit = len(log_probabilities) * hop_seconds
    for number, group in enumerate(groups):
        text = tokenizer.decode([tokens[i] for i in group])
        if not text:
            continue
        while not tokenizer.decode([tokens[group[0]]]):  # a word mark of its own may stand in the pause before
            group = group[1:]
        start, end = spans[group[0]][0] * hop_seconds, spans[group[-1]][1] * hop_seconds
        following = spans[groups[number + 1][0]][0] * hop_seconds if number + 1 < len(groups) else limit
        raw = min(scores[i] for i in group)  # a word is as sure as its least sure piece
        words.append(Word(text, start, min(end + MAX_TAIL, max(following, end)), calibrated(raw, calibration)))
    return words


def align_text(
    log_probabilities: Tensor,
    text: str,
    tokenizer,
    hop_seconds: float,
    calibration: tuple[float, float] = (1.0, 0.0),
    scores: list[float] | None = None,
) -> list[Word]:
    """Words of any text, such as that of a decoder with another vocabulary; otherwise as `align_words`.

    Args:
        scores: log-probability of each word; None takes those of the alignment.
    """
    texts = text.split()
    scores = [None] * len(texts) if scores is None else scores
    spelled = [_spelled(word, tokenizer) for word in texts]
    known = [i for i, tokens in enumerate(spelled) if tokenizer.decode(tokens)]
    tokens = [token for i in known for token in spelled[i]]
    aligned = iter(align_words(log_probabilities, tokens, tokenizer, hop_seconds, calibration))
    words, end = [], 0.0
    for i, (word, score) in enumerate(zip(texts, scores, strict=True)):
        # A word of signs that the vocabulary lacks has no time of its own.
        found = next(aligned) if i in known else Word(word, end, end, 0.0)
        confidence = found.confidence if score is None else calibrated(score, calibration)
        words.append(replace(found, text=word, confidence=confidence))
        end = found.end
    return words


def _spelled(word: str, tokenizer) -> list[int]:
    """Tokens of a word, without capitals and signs where the vocabulary has none."""
    tokens = tokenizer.encode(word)
    return tokens if tokenizer.decode(tokens) == word else tokenizer.encode(normalise_text(word).replace(" ", ""))


def _spans(log_probabilities: Tensor, tokens: list[int]) -> list[tuple[int, int, float]]:
    """Aligned tokens; those of a text too long for its speech, as a language model may write, evenly spread."""
    try:
        return align_tokens(log_probabilities, tokens)
    except ValueError:
        step = len(log_probabilities) / len(tokens)
        return [(int(i * step), int((i + 1) * step), -1e3) for i in range(len(tokens))]


def calibrated(log_probability: float, calibration: tuple[float, float]) -> float:
    """Platt scaling of a log-probability to a confidence in 0..1."""
    probability = min(max(math.exp(log_probability), 1e-6), 1 - 1e-6)
    slope, offset = calibration
    return 1 / (1 + math.exp(-(slope * math.log(probability / (1 - probability)) + offset)))


def fit_calibration(raw: Tensor, correct: Tensor) -> tuple[float, float]:
    """Slope and offset by maximum likelihood from raw confidences [n] (0..1) and whether each word was right [n]."""
    odds = torch.logit(raw.double().clamp(1e-6, 1 - 1e-6))
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        logits = parameters[0] * odds + parameters[1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, correct.double())
        loss.backward()
        return loss

    optimiser.step(closure)
    slope, offset = parameters.tolist()
    return slope, offset


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = 10) -> float:
    """Expected calibration error: mean gap between confidence and accuracy over equally filled bins."""
    order = confidence.argsort()
    gaps = [
        len(part) * abs(float(confidence[part].mean() - correct[part].float().mean()))
        for part in torch.tensor_split(order, bins)
        if len(part)
    ]
    return sum(gaps) / max(1, len(confidence))
