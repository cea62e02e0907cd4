"""CTC scores of given texts against sums over all paths."""

import itertools
import math

import pytest
import torch

from asr.ar.rescoring import CTCPrefixScorer, TextScorer, ctc_scores, ngram_score
from asr.ctc.beam import collapse
from asr.ctc.ngram import NGram
from asr.text.tokenizer import Tokenizer

FRAMES, UNITS = 4, 4  # blank 0, tokens 1 and 3, end 2


@pytest.fixture
def posteriors():
    torch.manual_seed(0)
    logits = torch.randn(FRAMES, UNITS)
    logits[:, 2] = -1e4  # no path spells the end
    return logits.log_softmax(-1)


@pytest.fixture
def texts(posteriors):
    """Log-probability of every token sequence, by summing paths."""
    totals = {}
    for path in itertools.product((0, 1, 3), repeat=FRAMES):
        spelt = tuple(collapse(list(path)))
        totals[spelt] = totals.get(spelt, 0.0) + math.exp(sum(float(posteriors[t, u]) for t, u in enumerate(path)))
    return totals


def test_scores_are_sums_over_paths(posteriors, texts):
    sequences = list(texts)
    assert ctc_scores(posteriors, sequences).exp().tolist() == pytest.approx([texts[s] for s in sequences], rel=1e-4)
    assert ctc_scores(posteriors, [(1, 1, 1)])[0] == -math.inf  # needs five frames
    assert len(ctc_scores(posteriors, [])) == 0


def test_prefix_scores_are_sums_over_texts(posteriors, texts):
    scorer = CTCPrefixScorer(posteriors, end=2)
    state, last = scorer.start(), torch.tensor([2])
    for prefix in ((), (1,), (1, 3), (1, 3, 3)):
        if prefix:
            _, states = scorer.extend(state, last, torch.tensor([[prefix[-1]]]))
            state, last = states[:, 0], torch.tensor([prefix[-1]])
        scores, _ = scorer.extend(state, last, torch.tensor([[1, 3, 2]]))
        begins = lambda text, start: text[: len(start)] == start  # noqa: E731
        expected = [sum(p for t, p in texts.items() if begins(t, (*prefix, u))) for u in (1, 3)]
        expected.append(texts.get(prefix, 0.0))
        assert scores[0].exp().tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_scorer_of_texts():
    tokenizer = Tokenizer.train(["he said so", "no"] * 3, 40)
    torch.manual_seed(0)
    posteriors = torch.randn(30, len(tokenizer)).log_softmax(-1)
    sentences = [tokenizer.encode(t) for t in ("he said so", "no")]
    lm = NGram.estimate(sentences, len(tokenizer), tokenizer.end_id, 2, (1, 1))
    scorer = TextScorer(posteriors, tokenizer, lambda: lm)
    alone = ctc_scores(posteriors, [tokenizer.encode("no")]).tolist()
    assert scorer(["he said", "no"])[1] == pytest.approx(alone[0], rel=1e-5)
    assert scorer.language(["no"]) == [ngram_score(lm, tokenizer.encode("no"))]
    assert scorer.language(["no"])[0] > scorer.language(["on"])[0]
    assert TextScorer(posteriors, tokenizer).language(["no"]) == [0.0]
    assert isinstance(scorer.best_path, str)


def test_transcriber_hands_the_audio_to_the_corrector():
    import asr
    from asr.recogniser import DecodeOptions
    from asr.transcriber import Transcriber

    seen = []

    def correct(texts, score_texts):
        seen.append((texts, score_texts))
        return "corrected"

    options = DecodeOptions(decoder="greedy", word_timestamps=False)
    transcriber = Transcriber.from_pretrained(None, "cpu", options=options, corrector=correct)
    assert transcriber(asr.__path__[0] + "/sample.flac").text == "corrected"
    (texts, scorer), *_ = seen
    assert scorer.best_path == texts[0]
    own, other = scorer([texts[0], "quite another sentence"])
    assert other < own < 0
    assert all(score < 0 for score in scorer.language(["the men", "men the"]))
