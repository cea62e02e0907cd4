"""End to end on tiny random parts: waves -> encoder -> prior -> canvas -> text, with the loop of our own models."""

import json

import pytest
import soundfile
import torch

from asr.ar.decoders import TwinDecoder
from asr.ar.greedy import score_sequences
from asr.ctc.beam import BeamOptions, prefix_beam
from asr.dllm.decoder import DenoisingDecoder
from asr.dllm.loop import DenoisingOptions, denoise
from asr.dllm.view import as_text
from asr.loading import load_recogniser
from asr.pretrained.config import LanguagePart, LargeASRConfig, LoRA, Part
from asr.pretrained.model import LargeASR
from asr.pretrained.recogniser import PretrainedEncoder
from asr.recogniser import DecodeOptions
from asr.text.tokenizer import Tokenizer
from recipes.training.toy_parts import EMPTY, language_model, whisper
from tests.asr.conftest import waves

TEXTS = ["the cat sat on the mat", "a dog sat there", "she said that"] * 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved recognisers by kind; their CTC branch says something in every frame."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("large")
    encoder, units = whisper(root / "whisper"), Tokenizer.train(TEXTS, 48)
    made = {}
    for kind, model in (("decoder", "llama"), ("masked", "modernbert"), ("causal", "llama")):
        name = language_model(root / f"{kind}_lm", model, TEXTS, chat=model == "llama")
        null = {} if kind == "causal" else {"null_token": EMPTY}
        lora = LoRA(rank=2) if kind == "decoder" else None
        config = LargeASRConfig(Part(encoder), LanguagePart(name, kind=kind, **null), lora=lora)
        network = LargeASR.create(config, units)
        with torch.no_grad():
            network.ctc.weight *= 10
        network.save_pretrained(root / kind)
        made[kind] = root / kind
    return made


def denoiser(network, choices=None):
    return DenoisingDecoder(network, network.tokenizer, choices)


@pytest.mark.parametrize("kind", ["decoder", "masked", "causal"])
def test_waves_become_texts_with_words(folders, kind):
    recogniser = load_recogniser(folders[kind], "cpu")
    assert isinstance(recogniser.encoder, PretrainedEncoder)
    first, second = recogniser.transcribe_batch(waves(1.5, 0.8), DecodeOptions())
    assert first.text and first.text != second.text
    assert all(0 <= w.start <= w.end <= 1.7 and 0 <= w.confidence <= 1 for w in first.words)
    greedy = recogniser.transcribe_batch(waves(1.5, 0.8), DecodeOptions(decoder="greedy"))
    assert greedy[0].text and greedy[0].words


def test_denoising_ends_and_batches_like_single_utterances(folders):
    network = LargeASR.from_pretrained(folders["decoder"])
    recogniser = load_recogniser(folders["decoder"], "cpu")
    decoder = denoiser(network, {"max_passes": 40, "commit": "threshold:0.3"})
    together = decoder(recogniser.listen(waves(1.5, 0.6)))
    assert together.passes.max() > 1 and not any(network.tokens.mask in row for row in together.tokens)
    never = set(network.tokens.never)
    assert not any(never & set(row) for row in together.tokens)
    for i, wave in enumerate(waves(1.5, 0.6)):
        alone = decoder(recogniser.listen([wave]))
        assert alone.tokens[0] == together.tokens[i] and int(alone.passes[0]) == int(together.passes[i])


def test_the_speech_cache_changes_no_text_where_it_is_exact(folders):
    network = LargeASR.from_pretrained(folders["decoder"])
    heard = load_recogniser(folders["decoder"], "cpu").listen(waves(1.2, 0.7))
    results = [
        denoiser(network, {"speech_cache": cache, "commit": "fixed:4"})(heard) for cache in (True, False)
    ]
    assert results[0].tokens == results[1].tokens


def test_the_prior_is_the_canvas_where_it_is_sure(folders):
    network = LargeASR.from_pretrained(folders["decoder"])
    heard = load_recogniser(folders["decoder"], "cpu").listen(waves(1.0))
    kept = denoiser(network, {"threshold": 0.0})(heard)
    (draft,) = denoiser(network).drafts(heard.posteriors)
    assert draft.tokens and kept.start[0, : len(draft.tokens)].tolist() == draft.tokens
    scratch = denoiser(network, {"prior": "none", "length": 12})(heard)
    assert (scratch.start == network.tokens.mask).all() and scratch.start.shape == (1, 12)


def test_a_model_that_computes_all_is_never_given_a_part_of_the_canvas(folders):
    """The loop leaves out finished utterances, not positions."""
    network = LargeASR.from_pretrained(folders["decoder"])
    heard = load_recogniser(folders["decoder"], "cpu").listen(waves(1.5, 0.6))
    decoder = denoiser(network, {"commit": "one", "max_passes": 60})
    seen, original = [], network.denoise

    def watched(canvas, speech, **given):
        seen.append(canvas.shape)
        assert set(given) == {"times", "valid"} and len(speech.valid) == len(canvas)
        return original(canvas, speech, **given)

    network.denoise = watched
    result = decoder(heard)
    assert seen[0][0] == 2 and seen[-1][0] == 1  # the shorter one left the batch
    assert int(result.token_forwards[0]) == sum(width for _, width in seen[: int(result.passes[0])])


def test_passes_are_bounded_without_early_exit(folders):
    network = LargeASR.from_pretrained(folders["masked"])
    heard = load_recogniser(folders["masked"], "cpu").listen(waves(1.0))
    decoder = denoiser(network)
    canvas = decoder.canvas(decoder.drafts(heard.posteriors), 1)
    speech = network.remember(heard.hidden, heard.lengths)
    options = DenoisingOptions(early_exit=False, max_passes=3)
    assert denoise(network, speech, canvas, options, decoder.special).passes.tolist() == [3]


def test_the_autoregressive_baseline_continues_the_prefix(folders):
    """Generation with a cache chooses what teacher forcing over the same text finds most probable."""
    network = LargeASR.from_pretrained(folders["causal"])
    heard = load_recogniser(folders["causal"], "cpu").listen(waves(1.5, 0.7))
    decoded = TwinDecoder(network, network.tokenizer)(heard)
    never = list(network.marks.never)
    assert all(decoded.tokens) and decoded.passes.min() > 1
    for i, row in enumerate(decoded.tokens):
        tokens = torch.tensor([row])
        speech = network.remember(heard.hidden[i : i + 1, : heard.lengths[i]], heard.lengths[i : i + 1])
        with torch.no_grad():
            logits = network.language_model.next_logits(tokens, torch.ones_like(tokens, dtype=torch.bool), speech)
        logits[..., never] = -torch.inf
        assert logits[0].argmax(-1).tolist() == row
        sure = logits[0].softmax(-1).amax(-1)
        torch.testing.assert_close(torch.tensor(decoded.confidences[i]), sure, atol=1e-4, rtol=1e-3)


def test_a_verified_draft_changes_no_text(folders):
    network = LargeASR.from_pretrained(folders["causal"])
    heard = load_recogniser(folders["causal"], "cpu").listen(waves(1.5, 0.7))
    plain, verifying = (TwinDecoder(network, network.tokenizer, speculative)(heard) for speculative in (False, True))
    assert plain.tokens == verifying.tokens and any(plain.tokens)


def test_the_language_model_judges_the_texts_of_the_beam(folders):
    recogniser = load_recogniser(folders["causal"], "cpu")
    judged, searched = (
        recogniser.transcribe_batch(waves(1.0), DecodeOptions(decoder=name, beam_size=4))[0]
        for name in ("rescored", "beam")
    )
    assert {text for text, _ in judged.nbest} == {text for text, _ in searched.nbest} and len(judged.nbest) > 1
    assert " ".join(word.text for word in judged.words) == judged.text
    network, (heard,) = recogniser.encoder.model, [recogniser.listen(waves(1.0))]
    speech = network.remember(heard.hidden, heard.lengths)
    texts = [network.tokens.encode(text) for text, _ in judged.nbest]
    together = score_sequences(network, speech, texts)
    alone = torch.cat([score_sequences(network, speech, [text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-4)


def test_the_canvas_of_any_vocabulary_can_be_seen(folders):
    recogniser, seen = load_recogniser(folders["masked"], "cpu"), []
    recogniser.on_denoised = seen.append
    utterance = recogniser.transcribe_batch(waves(1.0), DecodeOptions(denoising={"commit": "fixed:2"}))[0]
    lines = as_text(seen[0], recogniser.vocabulary, colour=False).splitlines()
    assert lines[0].startswith("draft") and lines[1].startswith("pass 1") and lines[-1] == f"text   | {utterance.text}"
    assert any(recogniser.vocabulary.piece(i).startswith(" ") for i in range(len(recogniser.vocabulary.tokenizer)))


def test_a_beam_may_be_the_prior(folders):
    network = LargeASR.from_pretrained(folders["masked"])
    heard = load_recogniser(folders["masked"], "cpu").listen(waves(1.0))
    kept = denoiser(network, {"prior": "beam", "threshold": 0.0})(heard)
    best = prefix_beam(heard.posteriors[0], network.tokenizer, BeamOptions())[0]
    assert network.tokens.decode(kept.start[0, : len(network.tokens.encode(best.text))].tolist()) == best.text


def test_wrong_choices_are_named(folders):
    with pytest.raises(ValueError, match="a causal language model has ar"):
        load_recogniser(folders["causal"], "cpu").transcribe_batch(waves(0.5), DecodeOptions(decoder="dllm"))
    with pytest.raises(ValueError, match="elastic"):
        denoiser(LargeASR.from_pretrained(folders["decoder"]), {"elastic": 0.9})
    with pytest.raises(ValueError, match="search=ngram"):
        denoiser(LargeASR.from_pretrained(folders["decoder"]), {"search": "ngram"})
    with pytest.raises(ValueError, match="'fused': the n-gram is over CTC units"):
        load_recogniser(folders["causal"], "cpu").transcribe_batch(waves(0.5), DecodeOptions(decoder="fused"))
    settings = json.loads((folders["decoder"] / "config.json").read_text())["settings"]
    settings["language_model"]["null_token"] = None
    plain = LargeASR(settings, Tokenizer.train(TEXTS, 48).definition)
    with pytest.raises(ValueError, match="null_token"):
        denoiser(plain, {"slots": True})
    assert not denoiser(plain).choices.slots


def test_command_line_takes_the_folder(folders, tmp_path, capsys):
    from asr.transcribe import main

    soundfile.write(tmp_path / "a.wav", waves(1.5)[0], 16000)
    arguments = [str(tmp_path / "a.wav"), "--model", str(folders["decoder"]), "--vad_onset", "0", "-f", "json"]
    assert (
        main([*arguments, "--word_timestamps", "--device", "cpu", "--decoder", "dllm", "--denoising", "max_passes=2"])
        == 0
    )
    transcript = json.loads(capsys.readouterr().out)
    assert transcript["text"] and transcript["segments"][0]["words"]
