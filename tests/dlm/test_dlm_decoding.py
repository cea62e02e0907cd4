"""Searches agree with each other and with scores worked out the long way."""

import math

import pytest
import torch

from asr.ar.rescoring import CTCPrefixScorer
from dlm.decoding import SearchOptions, choose, greedy, longest_output, score_texts, search


def test_greedy_follows_the_best_token(make_dlm):
    model = make_dlm()
    hypotheses = ["he said", "a longer hypothesis", ""]
    together = greedy(model, hypotheses, batch_size=3)
    for hypothesis, result in zip(hypotheses, together, strict=True):
        assert greedy(model, [hypothesis])[0].tokens == result.tokens  # padding changes nothing
        target = torch.tensor([[2, *result.tokens]])
        uncached = model(torch.tensor([[*model.units.encode(hypothesis), 2]]), target)[0]
        uncached[:, [0, 1, 3]] = -torch.inf
        limit = longest_output(len(hypothesis) + 1)
        assert len(result.tokens) <= limit
        assert uncached.argmax(-1).tolist()[: len(result.tokens)] == list(result.tokens)


def test_a_trained_model_corrects(copying_dlm):
    assert [s.text for s in greedy(copying_dlm, ["axb", "bb", "xxa"])] == ["aab", "bb", "aaa"]


def test_beam_of_one_is_greedy(copying_dlm):
    for hypothesis in ("axb", "bxxab"):
        best = search(copying_dlm, [hypothesis], options=SearchOptions(beam_size=1))[0]
        assert best.tokens == greedy(copying_dlm, [hypothesis])[0].tokens


def test_beam_scores_are_log_probabilities_and_sorted(copying_dlm):
    beam = search(copying_dlm, ["axb"], options=SearchOptions(beam_size=4))
    assert len(beam) == 4 and [s.score for s in beam] == sorted((s.score for s in beam), reverse=True)
    texts = [s.text for s in beam]
    again = score_texts(copying_dlm, ["axb"] * 4, texts)
    assert [s.score for s in beam] == pytest.approx(again, abs=1e-3)


def test_sum_adds_probabilities_of_whole_texts(copying_dlm):
    hypotheses, weights = ["axb", "bxb", "ab"], [-1.0, -2.0, -1.5]
    total = math.log(sum(math.exp(w) for w in weights))
    for scored in search(copying_dlm, hypotheses, weights, SearchOptions(beam_size=3)):
        each = score_texts(copying_dlm, hypotheses, [scored.text] * 3)
        expected = math.log(sum(math.exp(w - total + s) for w, s in zip(weights, each, strict=True)))
        assert scored.score == pytest.approx(expected, abs=1e-3)


def test_sum_of_one_hypothesis_is_beam_search(copying_dlm):
    beam = search(copying_dlm, ["axb"], options=SearchOptions(beam_size=3))
    alone = search(copying_dlm, ["axb"], [-7.0], SearchOptions(beam_size=3))
    twice = search(copying_dlm, ["axb", "axb"], [-1.0, -3.0], SearchOptions(beam_size=3))
    assert [s.text for s in beam] == [s.text for s in alone] == [s.text for s in twice]
    assert [s.score for s in twice] == pytest.approx([s.score for s in beam], abs=1e-4)


def test_audio_steers_the_sum(copying_dlm):
    """With the CTC prefix score the search finds what the audio says against what the model would write."""
    units = copying_dlm.units
    spoken = [units.encode(c)[0] for c in "bab"]
    logits = torch.full((7, len(units)), -6.0)
    for frame in range(7):
        logits[frame, spoken[frame // 2] if frame % 2 else 0] = 6.0
    ctc = CTCPrefixScorer(logits.log_softmax(-1), end=units.end_id)
    deaf = search(copying_dlm, ["bbb"], options=SearchOptions(beam_size=4))[0].text
    heard = search(copying_dlm, ["bbb"], options=SearchOptions(beam_size=4, ctc_scale=3.0, candidates=30), ctc=ctc)[
        0
    ].text
    assert (deaf, heard) == ("bbb", "bab")


def test_length_is_bounded(make_dlm):
    model = make_dlm()
    with torch.no_grad():
        model.head.bias[model.units.end_id] -= 100  # the end is never likely
    for result in (greedy(model, ["he"])[0], search(model, ["he"], options=SearchOptions(beam_size=2))[0]):
        assert len(result.tokens) <= longest_output(3)


def test_choice_with_scale_zero_is_the_recognisers():
    texts, asr, dlm = ["a b", "a", "c"], [-2.0, -1.0, -3.0], [-1.0, -9.0, -math.inf]
    assert choose(texts, [(1.0, asr), (0.0, dlm)]) == 1
    assert choose(texts, [(1.0, asr), (1.0, dlm)]) == 0
    assert choose(texts, [(1.0, asr), (0.0, dlm)], bonus=2.0) == 0
    assert choose(texts, [(0.0, asr), (0.0, [-math.inf, 0.0, 0.0])]) == 0
