"""Slot search against the enumeration of all ways to fill the slots."""

import itertools
import math

import numpy as np
import pytest

from asr.ctc.ngram import NGram
from asr.dllm.slot_search import SlotSearchOptions, search_slots
from asr.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["ab ba abba"], vocabulary=36)
FIRST = 4  # tokens behind the special ones


@pytest.fixture(scope="module")
def lm():
    rng = np.random.default_rng(0)
    sentences = [[int(t) for t in rng.integers(FIRST, FIRST + 3, rng.integers(1, 6))] for _ in range(200)]
    return NGram.estimate(sentences, len(TOKENIZER), TOKENIZER.end_id, 3, (1, 1, 1))


def language_score(lm, text, options):
    start, score = lm.start(), 0.0
    for i, token in enumerate(text):
        score += options.lm_weight * lm.distribution((*start, *text[:i])[1 - lm.order :])[token] + options.token_bonus
    return score + options.lm_weight * lm.distribution((*start, *text)[1 - lm.order :])[lm.end_id]


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.8, 2.0)])
def test_search_finds_the_text_that_enumeration_finds(lm, weights):
    rng = np.random.default_rng(1)
    options = SlotSearchOptions(500, *weights, candidates=3, nats=99.0)
    slots, tokens = 4, range(FIRST, FIRST + 3)
    probabilities = rng.dirichlet(np.full(4, 0.7), slots)
    scores = np.full((slots, len(TOKENIZER)), -200.0)
    scores[:, FIRST : FIRST + 3] = np.log(probabilities[:, :3])
    empty = np.log(probabilities[:, 3])

    texts: dict[tuple, float] = {}
    for choice in itertools.product((None, *tokens), repeat=slots):
        text = tuple(t for t in choice if t is not None)
        way = math.prod(probabilities[i, 3 if t is None else t - FIRST] for i, t in enumerate(choice))
        texts[text] = texts.get(text, 0.0) + way
    wanted = {text: math.log(p) + language_score(lm, text, options) for text, p in texts.items()}
    best = max(wanted, key=wanted.get)

    found = search_slots(scores, empty, TOKENIZER, lm, options)
    assert tuple(found[0].tokens) == best
    for hypothesis in found[:20]:
        assert hypothesis.score == pytest.approx(wanted[tuple(hypothesis.tokens)], abs=1e-4)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_no_slot_gives_the_empty_text(lm):
    empty = search_slots(np.zeros((0, len(TOKENIZER))), np.zeros(0), TOKENIZER, lm, SlotSearchOptions())
    assert [h.text for h in empty] == [""]


def test_recogniser_without_a_language_model_says_so(tiny_ctc_model, tiny_denoiser):
    from asr.loading import load_recogniser
    from asr.recogniser import DecodeOptions

    options = DecodeOptions("dllm", decoder_model=str(tiny_denoiser["dllm"]), denoising={"search": "ngram"})
    with pytest.raises(ValueError, match="ngram.npz"):
        load_recogniser(tiny_ctc_model, "cpu").transcribe_batch([np.ones(8000, np.float32)], options)
