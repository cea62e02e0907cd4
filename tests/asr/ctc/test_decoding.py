"""Decoding against obvious references: enumeration of all paths, and the definition of collapse."""

import itertools

import pytest
import torch

from asr.ctc.beam import BeamOptions, collapse, greedy, prefix_beam
from asr.ctc.ngram import NGram
from asr.ctc.timing import align_tokens, align_words, calibration_error, fit_calibration
from asr.text.tokenizer import Tokenizer, normalise_text

SENTENCES = ["the cat sat on the mat", "a cat is a cat", "the dog sat", "it's the dog's mat"] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(SENTENCES, 48)


def posteriors(frames: int, vocabulary: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(frames, vocabulary, generator=generator)).log_softmax(-1)


def exact_scores(log_probabilities: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of every token sequence by summing over all paths."""
    frames, vocabulary = log_probabilities.shape
    totals: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for path in itertools.product(range(vocabulary), repeat=frames):
        score = sum(log_probabilities[t, token] for t, token in enumerate(path))
        totals.setdefault(tuple(collapse(list(path))), []).append(score)
    return {tokens: float(torch.logsumexp(torch.stack(scores), 0)) for tokens, scores in totals.items()}


class Plain:
    """A tokenizer that spells ids."""

    blank_id = 0

    def decode(self, ids):
        return " ".join(map(str, ids))

    def starts_word(self, token):
        return True


def test_collapse_merges_repeats_and_drops_blanks():
    assert collapse([0, 5, 5, 0, 5, 7, 7, 0]) == [5, 5, 7]
    assert collapse([]) == []


@pytest.mark.parametrize("seed", range(4))
def test_prefix_beam_equals_enumeration(seed):
    log_probabilities = posteriors(5, 4, seed)
    exact = exact_scores(log_probabilities)
    options = BeamOptions(beam_size=500, lm_weight=0, token_bonus=0, threshold=1e9)
    found = prefix_beam(log_probabilities, Plain(), options)
    assert {tuple(h.tokens) for h in found} == set(exact)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(exact[tuple(hypothesis.tokens)], abs=1e-4)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_prefix_beam_adds_language_model_and_bonus():
    log_probabilities = posteriors(4, 6, 1)
    lm = NGram.estimate([[4, 5, 4, 5], [4, 4, 5]] * 3, vocabulary=6, end_id=2, order=3)
    options = BeamOptions(beam_size=2000, lm_weight=0.7, token_bonus=0.3, threshold=1e9)
    exact = exact_scores(log_probabilities)
    for hypothesis in prefix_beam(log_probabilities, Plain(), options, lm)[:50]:
        context, prior = lm.start(), 0.0
        for token in [*hypothesis.tokens, lm.end_id]:
            prior += 0.7 * float(lm.distribution(context)[token])
            context = (*context, token)[-2:]
        expected = exact[tuple(hypothesis.tokens)] + prior + 0.3 * len(hypothesis.tokens)
        assert hypothesis.score == pytest.approx(expected, abs=1e-3)


def test_greedy_ignores_frames_after_the_length(tokenizer):
    log_probabilities = posteriors(30, len(tokenizer), 3)
    alone = greedy(log_probabilities[None, :17], torch.tensor([17]), tokenizer)[0]
    padded = greedy(log_probabilities[None], torch.tensor([17]), tokenizer)[0]
    assert padded == alone


def test_tokenizer_round_trip_and_definition(tokenizer):
    for sentence in SENTENCES:
        assert tokenizer.decode(tokenizer.encode(sentence)) == sentence
    again = Tokenizer(tokenizer.definition)
    assert again.pieces == tokenizer.pieces
    assert again.encode("the cat's mat") == tokenizer.encode("the cat's mat")


def test_normalise_text():
    assert normalise_text("  Été — 'Tis No. 1,  the DOG's! ' ") == "ete 'tis no the dog's"


def test_ngram_sums_to_one_and_prefers_what_it_saw(tokenizer):
    lm = NGram.estimate(
        [tokenizer.encode(s) for s in SENTENCES], len(tokenizer), tokenizer.end_id, order=4, min_counts=(1, 1, 2, 2)
    )
    the = tokenizer.encode("the")
    for context in [(), lm.start(), tuple(the), (5, 6, 7), (*lm.start(), *the)]:
        total = torch.tensor(lm.distribution(tuple(context))).exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-3)
    seen = lm.perplexity([tokenizer.encode("the cat sat on the mat")])
    unseen = lm.perplexity([tokenizer.encode("mat the on sat cat the")])
    assert seen < 0.5 * unseen


def test_ngram_survives_storage(tokenizer, tmp_path):
    lm = NGram.estimate([tokenizer.encode(s) for s in SENTENCES], len(tokenizer), tokenizer.end_id, order=3)
    lm.save(tmp_path / "lm.npz")
    again = NGram.load(tmp_path / "lm.npz")
    sentence = [tokenizer.encode("the dog sat on a mat")]
    assert again.perplexity(sentence) == pytest.approx(lm.perplexity(sentence), rel=0.05)


def test_ngram_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="lower the order"):
        NGram.estimate([[1, 2]], vocabulary=1000, end_id=2, order=9)
    with pytest.raises(ValueError, match="at least one"):
        NGram.estimate([], vocabulary=10, end_id=2)


def test_words_get_the_times_of_their_tokens(tokenizer):
    tokens = tokenizer.encode("the cat sat")
    starts = list(range(3, 3 + 4 * len(tokens), 4))
    log_probabilities = torch.full((4 * len(tokens) + 6, len(tokenizer)), -8.0)
    log_probabilities[:, 0] = -0.01
    for start, token in zip(starts, tokens, strict=True):
        log_probabilities[start, :] = -8.0
        log_probabilities[start, token] = -0.01
    words = align_words(log_probabilities, tokens, tokenizer, hop_seconds=0.04)
    assert [w.text for w in words] == ["the", "cat", "sat"]
    first_tokens = [i for i, t in enumerate(tokens) if tokenizer.starts_word(t)]
    assert [w.start for w in words] == pytest.approx([starts[i] * 0.04 for i in first_tokens])
    assert all(a.end <= b.start + 1e-9 for a, b in itertools.pairwise(words))
    assert all(w.confidence > 0.9 for w in words)


def test_alignment_refuses_more_tokens_than_frames():
    with pytest.raises(ValueError, match="need 4 frames"):
        align_tokens(posteriors(3, 5, 0), [1, 1, 2])


def test_calibration_mends_overconfidence():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(4000, generator=generator)
    correct = torch.rand(4000, generator=generator) < truth
    overconfident = torch.sigmoid(3 * torch.logit(truth.clamp(1e-4, 1 - 1e-4)))
    slope, offset = fit_calibration(overconfident, correct)
    mended = torch.sigmoid(slope * torch.logit(overconfident.clamp(1e-6, 1 - 1e-6)) + offset)
    assert calibration_error(mended, correct) < 0.03 < calibration_error(overconfident, correct)
