"""Text decoders behind the recogniser, their choices, and the picture of denoising."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from asr.ctc.ngram import NGram
from asr.dllm.choices import DenoisingDecode, parse_choices
from asr.dllm.view import Figure, as_text
from asr.loading import load_recogniser
from asr.recogniser import DecodeOptions
from asr.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def waves():
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (16000, 1600, 24000)]


@pytest.fixture(scope="module")
def recogniser(tiny_ctc_model, tmp_path_factory):
    """The tiny recogniser with a language model of its few words."""
    folder = shutil.copytree(tiny_ctc_model, tmp_path_factory.mktemp("with_ngram") / "model")
    tokenizer = load_recogniser(tiny_ctc_model, "cpu").tokenizer
    sentences = [tokenizer.encode(text) for text in ("hello world how are you", "how are you world")]
    NGram.estimate(sentences, len(tokenizer), tokenizer.end_id, order=3).save(folder / "ngram.npz")
    return load_recogniser(folder, "cpu")


def options(tiny_denoiser, decoder, **denoising):
    folder = tiny_denoiser["dllm" if decoder == "dllm" else "ar"]
    return DecodeOptions(decoder=decoder, decoder_model=str(folder), denoising=denoising)


@pytest.mark.parametrize("decoder", ["dllm", "ar", "speculative", "fused", "rescored"])
def test_decoders_give_words_with_times_and_confidences(recogniser, tiny_denoiser, waves, decoder):
    together = recogniser.transcribe_batch(waves, options(tiny_denoiser, decoder))
    for wave, utterance in zip(waves, together, strict=True):
        alone = recogniser.transcribe_batch([wave], options(tiny_denoiser, decoder))[0]
        assert alone.text == utterance.text
        assert " ".join(word.text for word in utterance.words) == utterance.text
        times = [time for word in utterance.words for time in (word.start, word.end)]
        assert times == sorted(times) and all(0 <= word.confidence <= 1 for word in utterance.words)
        assert not times or times[-1] <= len(wave) / 16000 + 0.2
    greedy = recogniser.transcribe_batch(waves, DecodeOptions(decoder="greedy"))
    assert [u.text for u in greedy] != [u.text for u in together]


def test_speculation_writes_the_text_of_the_twin(recogniser, tiny_denoiser, waves):
    texts = [
        [u.text for u in recogniser.transcribe_batch(waves, options(tiny_denoiser, name))]
        for name in ("ar", "speculative")
    ]
    assert texts[0] == texts[1] and any(texts[0])


def test_searches_with_the_language_model_say_when_there_is_none(tiny_ctc_model, tiny_denoiser, waves):
    without = load_recogniser(tiny_ctc_model, "cpu")
    for decoder, choices in (("fused", {}), ("dllm", {"search": "ngram"})):
        with pytest.raises(ValueError, match="needs a recogniser with a language model"):
            without.transcribe_batch(waves[:1], options(tiny_denoiser, decoder, **choices))


def test_rescoring_reorders_the_texts_of_the_beam(tiny_ctc_model, tiny_denoiser, waves):
    recogniser = load_recogniser(tiny_ctc_model, "cpu")  # without the n-gram, which leaves the judge no choice
    judged = recogniser.transcribe_batch(waves, options(tiny_denoiser, "rescored"))
    searched = recogniser.transcribe_batch(waves, DecodeOptions(decoder="beam"))
    assert [{text for text, _ in u.nbest} for u in judged] == [{text for text, _ in u.nbest} for u in searched]
    assert [u.text for u in judged] != [u.text for u in searched]
    for utterance in judged:
        scores = [score for _, score in utterance.nbest]
        assert scores == sorted(scores, reverse=True) and utterance.text == utterance.nbest[0][0]


@pytest.mark.parametrize(
    "choices",
    [
        {"prior": "none", "length": 20},
        {"prior": "beam"},
        {"slots": False, "commit": "fixed:3"},
        {"elastic": 0.9, "commit": "one", "max_passes": 50},
        {"speech_cache": False, "early_exit": False, "max_passes": 2},
        {"pruning": "eotp", "commit": "entropy:0.5"},
    ],
)
def test_every_choice_runs(recogniser, tiny_denoiser, waves, choices):
    utterances = recogniser.transcribe_batch(waves, options(tiny_denoiser, "dllm", **choices))
    assert len(utterances) == 3 and any(u.text for u in utterances)


def test_choices_are_read_from_text():
    pairs = ["prior=none", "speech_cache=false", "elastic=0.8", "commit=factor:2", "max_passes=3"]
    assert parse_choices(pairs) == {
        "prior": "none", "speech_cache": False, "elastic": 0.8, "commit": "factor:2", "max_passes": 3,
    }  # fmt: skip
    assert parse_choices(["elastic=none"]) == {"elastic": None}
    wrongs = ("prior", "colour=red", "max_passes=many", "early_exit=3", "prior=dream", "max_passes=true", "commit=m")
    for wrong in wrongs:
        with pytest.raises(ValueError, match=wrong.partition("=")[0]):
            parse_choices([wrong])


def test_another_vocabulary_is_refused(recogniser, tiny_denoiser, waves, tmp_path):
    from asr.dllm.network import Denoiser

    model = Denoiser.from_pretrained(tiny_denoiser["dllm"])
    other = Tokenizer.train(["something else altogether"], vocabulary=40)
    Denoiser.create(dataclasses.replace(model.config, vocabulary=len(other)), other).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another vocabulary"):
        recogniser.transcribe_batch(waves, DecodeOptions(decoder="dllm", decoder_model=str(tmp_path)))


def test_picture_of_denoising(recogniser, tiny_denoiser, waves, tmp_path):
    seen = []
    recogniser.on_denoised = seen.append
    try:
        utterance = recogniser.transcribe_batch(waves[:1], options(tiny_denoiser, "dllm", commit="fixed:3"))[0]
    finally:
        recogniser.on_denoised = None
    text = as_text(seen[0], recogniser.tokenizer, colour=False)
    lines = text.splitlines()
    assert lines[0].startswith("draft") and lines[3].startswith("pass 3") and "[" in lines[1]
    assert f"text   | {utterance.text}" in text and "·" not in lines[3]
    assert "\x1b[" in as_text(seen[0], recogniser.tokenizer, colour=True)
    Figure(tmp_path / "figure.html", recogniser.tokenizer).add(seen[0])
    assert utterance.text in (tmp_path / "figure.html").read_text()


def test_command_line(tiny_ctc_model, tiny_denoiser, tmp_path):
    wave = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    base = [sys.executable, "-m", "asr.transcribe", "--model", tiny_ctc_model, "--vad_onset", "0"]
    command = [*base, "--decoder", "dllm", "--decoder_model", tiny_denoiser["dllm"], "--show_denoising",
               "--denoising", "max_passes=3", "--denoising_figure", tmp_path / "f.html", "-f", "json",
               "--word_timestamps", tmp_path / "a.wav"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] and "pass 1" in done.stderr and (tmp_path / "f.html").exists()
    wrong = subprocess.run([*base, "--show_denoising", tmp_path / "a.wav"], capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2 and "--decoder dllm" in wrong.stderr


def test_prior_longer_than_the_speech_and_half_a_minute(recogniser, tiny_denoiser):
    rng = np.random.default_rng(0)
    long = (0.1 * rng.standard_normal(30 * 16000)).astype(np.float32)
    short = (0.1 * rng.standard_normal(700)).astype(np.float32)
    for decoder in ("dllm", "ar", "speculative", "fused", "rescored"):
        texts = [u.text for u in recogniser.transcribe_batch([long, short], options(tiny_denoiser, decoder))]
        assert len(texts) == 2
    assert DenoisingDecode().prior == "ctc" and torch.is_grad_enabled()


def test_names_to_expect_are_for_searches(recogniser, tiny_denoiser, waves):
    for decoder, name in (("ar", "world"), ("beam", "are")):
        plain = DecodeOptions(decoder, decoder_model=str(tiny_denoiser["ar"]))
        named = dataclasses.replace(plain, hotwords=(name,), hotword_strength=0.0)
        led = dataclasses.replace(named, hotword_strength=30.0)
        free, unmoved, led = (recogniser.transcribe_batch(waves, choice) for choice in (plain, named, led))
        assert sum(u.text.split().count(name) for u in led) > sum(u.text.split().count(name) for u in free)
        assert decoder == "ar" or [u.text for u in unmoved] == [u.text for u in free]
        assert all(" ".join(w.text for w in u.words) == u.text for u in led)
    for decoder in ("greedy", "speculative", "dllm"):
        with pytest.raises(ValueError, match="ar and beam can"):
            recogniser.prepare(dataclasses.replace(options(tiny_denoiser, decoder), hotwords=("world",)))


def test_what_only_whisper_can_be_told_is_refused(recogniser):
    for told in ({"language": "de"}, {"task": "translate"}, {"initial_prompt": "Cat"}, {"temperature": 0.5}):
        with pytest.raises(ValueError, match="this model knows en|needs a model like Whisper"):
            recogniser.prepare(DecodeOptions("greedy", **told))
