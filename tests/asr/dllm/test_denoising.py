"""The denoising loop and its twin on a small random decoder: what is exact must be exact."""

import math

import pytest
import torch

from asr.ar.greedy import END as TEXT_END
from asr.ar.greedy import LOOKAHEAD, START, decode_greedily, decode_speculatively, score_sequences
from asr.ar.rescoring import ngram_score
from asr.ar.search import FusionOptions, NGramAdvice, search_tokens
from asr.ctc.ngram import NGram
from asr.dllm.caches import TextCache
from asr.dllm.canvas import Canvas, CanvasOptions, Draft, lay_out
from asr.dllm.commit import EntropyBound, Factor, FixedPasses, OneByOne, Threshold
from asr.dllm.elastic import ElasticCache
from asr.dllm.loop import END, MASK, NULL, DenoisingOptions, denoise
from asr.dllm.network import Denoiser, DenoiserConfig

VOCABULARY = 24


def make_decoder(causal: bool = False, sharpness: float = 6.0) -> Denoiser:
    torch.manual_seed(3)
    config = DenoiserConfig(VOCABULARY, memory_width=16, width=32, heads=2, layers=3, feed_forward=48, causal=causal)
    model = Denoiser.create(config).eval()
    with torch.no_grad():
        model.embedding.weight *= 3
        model.head.weight *= sharpness
    return model


def make_speech(model: Denoiser, lengths: list[int]):
    generator = torch.Generator().manual_seed(5)
    hidden = [3 * torch.randn(n, 16, generator=generator) for n in lengths]
    return model.remember(torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True), torch.tensor(lengths))


def make_draft(tokens: list[int], confidences: list[float], frames: int) -> Draft:
    return Draft(tokens, confidences, [frames * (i + 1) / (len(tokens) + 1) for i in range(len(tokens))], frames)


DRAFTS = [
    make_draft([5, 6, 7, 8, 9, 10], [0.99, 0.3, 0.95, 0.2, 0.99, 0.5], 40),
    make_draft([], [], 9),
    make_draft([11], [0.1], 12),
    make_draft([5, 5, 12, 13], [0.99, 0.99, 0.99, 0.4], 31),
]


def canvas_of(drafts) -> Canvas:
    return Canvas.of([lay_out(draft, CanvasOptions(), MASK) for draft in drafts], pad=END)


def test_speech_cache_gives_the_logits_of_fresh_keys_and_values():
    model = make_decoder()
    speech = make_speech(model, [d.frames for d in DRAFTS])
    options = {"commit": Threshold(0.5), "early_exit": False, "max_passes": 4}
    kept = denoise(model, speech, canvas_of(DRAFTS), DenoisingOptions(**options))
    calls = []

    def again():
        calls.append(1)
        return make_speech(model, [d.frames for d in DRAFTS])

    fresh = denoise(model, again, canvas_of(DRAFTS), DenoisingOptions(**options, speech_cache=False))
    assert len(calls) == 4 and kept.tokens == fresh.tokens


def test_shared_speech_serves_several_canvases():
    model = make_decoder()
    generator = torch.Generator().manual_seed(1)
    canvas = torch.randint(4, VOCABULARY, (4, 7), generator=generator)  # two for each of two utterances
    logits = model.denoise(canvas, make_speech(model, [20, 13]))
    separate = make_speech(model, [20, 20, 13, 13])
    index = torch.tensor([0, 0, 1, 1])
    repeated = make_speech(model, [20, 13]).rows(index)
    assert torch.equal(repeated.frames, separate.frames)
    torch.testing.assert_close(logits, model.denoise(canvas, repeated))


@pytest.mark.parametrize("elastic", [None, 2.0])
@pytest.mark.parametrize("rule", [Threshold(0.6), Factor(1.0), EntropyBound(0.5), FixedPasses(3), OneByOne()])
def test_batched_and_single_decoding_agree(rule, elastic):
    model = make_decoder()
    options = DenoisingOptions(commit=rule, max_passes=30, elastic=elastic)
    speech = make_speech(model, [d.frames for d in DRAFTS])
    together = denoise(model, speech, canvas_of(DRAFTS), options)
    for i, draft in enumerate(DRAFTS):
        row = speech.rows(torch.tensor([i]))
        row.keys, row.values = ([part[:, :, : draft.frames] for part in p] for p in (row.keys, row.values))
        row.valid = None
        alone = denoise(model, row, canvas_of([draft]), options)
        assert alone.tokens[0] == together.tokens[i]
        assert alone.passes[0] == together.passes[i]


def test_threshold_one_is_sequential_denoising():
    model = make_decoder()
    speech = make_speech(model, [d.frames for d in DRAFTS])
    exact = denoise(model, speech, canvas_of(DRAFTS), DenoisingOptions(commit=Threshold(1.1), max_passes=99))
    sequential = denoise(model, speech, canvas_of(DRAFTS), DenoisingOptions(commit=OneByOne(), max_passes=99))
    parallel = denoise(model, speech, canvas_of(DRAFTS), DenoisingOptions(commit=Threshold(0.0), max_passes=99))
    assert exact.tokens == sequential.tokens
    assert exact.passes[0] > 5 > parallel.passes[0] == 1


@torch.no_grad()
def test_elastic_cache_is_nearer_to_full_recomputation_than_a_stale_cache():
    """Both approximate: settled positions keep what they were; the elastic cache refreshes their upper layers."""
    model = make_decoder()
    speech = make_speech(model, [20])
    generator = torch.Generator().manual_seed(1)
    errors = {"stale": 0.0, "elastic": 0.0}
    for _ in range(10):
        canvas = torch.randint(4, VOCABULARY, (1, 12), generator=generator)
        changed = canvas.clone()
        changed[0, :3] = torch.randint(4, VOCABULARY, (3,), generator=generator)
        active = torch.tensor([[0, 1, 2, 7, 11]])  # 11 is watched
        settled = torch.arange(12)[None] == 11
        exact = model.denoise(changed, speech)[:, 7]
        for name, cache in (("stale", TextCache()), ("elastic", ElasticCache(2.0))):
            model.denoise(canvas, speech, cache=cache)
            if name == "elastic":
                assert cache.choose(settled).tolist() == [11]
            logits = model.denoise(changed, speech, active=active, cache=cache)
            errors[name] += float((logits[:, 3] - exact).abs().mean())
    assert 0 < errors["elastic"] < errors["stale"]


def test_early_exit_computes_fewer_positions_and_ends_early():
    model = make_decoder()
    speech = make_speech(model, [d.frames for d in DRAFTS])
    full = denoise(model, speech, canvas_of(DRAFTS), DenoisingOptions(early_exit=False, max_passes=10))
    early = denoise(model, speech, canvas_of(DRAFTS), DenoisingOptions(commit=Threshold(0.3), max_passes=10))
    assert full.passes.tolist() == [10] * 4
    assert early.token_forwards.sum() < full.token_forwards.sum() / 2


def test_active_positions_alone_give_the_logits_of_all():
    model = make_decoder()
    speech = make_speech(model, [20, 13])
    canvas = torch.randint(4, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    cache = TextCache()
    everything = model.denoise(canvas, speech, cache=cache)
    active = torch.tensor([[1, 4], [0, 8]])
    some = model.denoise(canvas, speech, active=active, cache=cache)
    torch.testing.assert_close(some, everything.gather(1, active.unsqueeze(-1).expand(-1, -1, VOCABULARY)))


def test_text_ends_only_in_the_tail_and_slots_stay_empty_only_before_it():
    model = make_decoder()
    with torch.no_grad():
        model.head.bias[END] = model.head.bias[NULL] = 1e3
    speech = make_speech(model, [d.frames for d in DRAFTS])
    result = denoise(model, speech, canvas_of(DRAFTS), DenoisingOptions())
    assert result.tokens == [[5, 7, 9], [], [], [5, 5, 12]]  # what was sure stays, the rest is empty
    assert result.passes.max() == 1


@pytest.mark.parametrize("pruning", ["first", "eotp"])
def test_pruning_cuts_the_tail(pruning):
    model = make_decoder()
    speech = make_speech(model, [30])
    canvas = Canvas.empty([64], MASK)
    options = {"commit": Threshold(0.9), "max_passes": 6}
    with torch.no_grad():
        model.head.bias[END] = 40.0
    whole = denoise(model, speech, canvas, DenoisingOptions(**options, pruning="none", early_exit=False))
    cut = denoise(model, speech, canvas, DenoisingOptions(**options, pruning=pruning, early_exit=False))
    assert whole.tokens == cut.tokens
    assert cut.token_forwards.sum() < whole.token_forwards.sum()


@pytest.fixture
def may_loop(monkeypatch):
    """Random twins repeat themselves; what ends a text that does (tests of `asr.ar.greedy`) is off."""
    monkeypatch.setattr("asr.ar.greedy.repeated", lambda tokens: 0)


def test_speculative_decoding_writes_what_greedy_decoding_writes(may_loop):
    model = make_decoder(causal=True, sharpness=2.0)
    speech = make_speech(model, [25])
    greedy = decode_greedily(model, speech)
    text = greedy.tokens[0]
    assert len(text) > 5
    assert decode_speculatively(model, speech, text).passes[0] == math.ceil(greedy.passes[0] / (1 + LOOKAHEAD))
    for draft in ([], text[:3] + text[4:], [4] * 10, text + text, text[:2] + [9] + text[2:]):
        result = decode_speculatively(model, speech, draft)
        assert result.tokens == greedy.tokens
        assert result.passes[0] <= greedy.passes[0]


def test_the_twin_scores_texts_as_it_writes_them():
    """One parallel pass over padded texts against the chain rule, a token at a time."""
    model = make_decoder(causal=True, sharpness=2.0)
    speech = make_speech(model, [25])
    texts = [[5, 6, 7], [], [8, 5, 5, 9, 6]]
    for text, score in zip(texts, score_sequences(model, speech, texts).tolist(), strict=True):
        total = 0.0
        for i, token in enumerate([*text, TEXT_END]):
            logits = model.denoise(torch.tensor([[START, *text[:i]]]), speech)[0, -1].detach()
            total += float(logits.log_softmax(-1)[token])
        assert score == pytest.approx(total, abs=1e-3)


class Letters:
    """Stands for a tokenizer where only the ids matter."""

    def decode(self, tokens):
        return " ".join(map(str, tokens))


def fused(model, speech, **options):
    lm = NGram.estimate([[5, 6, 7], [5, 6, 8, 9], [6, 7, 5]], VOCABULARY, TEXT_END, order=3)
    advice = NGramAdvice(lm, FusionOptions(**options))
    return lm, search_tokens(model, speech, Letters().decode, advice, advice.options.beam_size)[0]


def test_fused_search_scores_texts_by_the_sum_of_both_models():
    model = make_decoder(causal=True, sharpness=2.0)
    speech = make_speech(model, [25])
    lm, found = fused(model, speech, beam_size=4, lm_weight=0.3, token_bonus=0.5)
    assert 1 < len(found) <= 4 and len({text.text for text in found}) == len(found)
    assert [text.score for text in found] == sorted((text.score for text in found), reverse=True)
    alone = score_sequences(model, speech, [text.tokens for text in found]).tolist()
    for text, score in zip(found, alone, strict=True):
        never = sum(_forbidden(model, speech, text.tokens))
        expected = score - never + 0.3 * ngram_score(lm, text.tokens) + 0.5 * len(text.tokens)
        assert text.score == pytest.approx(expected, abs=1e-2)


def _forbidden(model, speech, tokens):
    """Log-probability that each step of a text leaves for tokens which may be written."""
    for i in range(len(tokens) + 1):
        logits = model.denoise(torch.tensor([[START, *tokens[:i]]]), speech)[0, -1].detach().softmax(-1)
        yield float((1 - logits[[0, MASK, NULL]].sum()).log())


def test_fused_search_is_led_by_the_language_model_and_a_wider_beam_is_no_worse():
    model = make_decoder(causal=True, sharpness=2.0)
    speech = make_speech(model, [25])
    lm, free = fused(model, speech, lm_weight=0.0, token_bonus=2.0)
    led = fused(model, speech, lm_weight=2.0, token_bonus=2.0)[1]
    assert ngram_score(lm, led[0].tokens) > ngram_score(lm, free[0].tokens)
    narrow, wide = (fused(model, speech, beam_size=size)[1][0].score for size in (1, 16))
    assert wide >= narrow - 1e-4


def test_twin_decodes_batches_as_single_utterances():
    model = make_decoder(causal=True, sharpness=2.0)
    speech = make_speech(model, [25, 8, 17])
    together = decode_greedily(model, speech)
    for i, frames in enumerate([25, 8, 17]):
        row = speech.rows(torch.tensor([i]))
        row.keys, row.values = ([part[:, :, :frames] for part in p] for p in (row.keys, row.values))
        row.valid = None
        assert decode_greedily(model, row).tokens[0] == together.tokens[i]


def test_twin_steps_give_the_logits_of_the_whole_text():
    model = make_decoder(causal=True)
    speech = make_speech(model, [25])
    tokens = torch.randint(4, VOCABULARY, (1, 8), generator=torch.Generator().manual_seed(2))
    cache = TextCache()
    steps = torch.cat([model.extend(tokens[:, i : i + 1], speech, cache) for i in range(8)], dim=1)
    torch.testing.assert_close(model.denoise(tokens, speech), steps, rtol=1e-4, atol=1e-4)


def test_a_normalised_search_ends_where_the_model_ends(may_loop):
    """Without an adviser and with one text it is greedy decoding."""
    for seed in range(3):
        torch.manual_seed(seed)
        model = make_decoder(causal=True, sharpness=2.0)
        speech = make_speech(model, [25])
        advise = lambda texts: torch.zeros(len(texts), VOCABULARY)  # noqa: E731
        found, passes = search_tokens(model, speech, Letters().decode, advise, 1, normalised=True)
        greedy = decode_greedily(model, speech)
        assert found[0].tokens == greedy.tokens[0] and passes <= int(greedy.passes[0]) + 1
