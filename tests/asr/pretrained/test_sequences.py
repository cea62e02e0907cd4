"""Whisper models of transformers and faster-whisper, tiny and random."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from asr.loading import load_recogniser
from asr.pretrained.sequences import word_groups
from asr.recogniser import DecodeOptions
from tests.asr.conftest import noise


@pytest.fixture(scope="module")
def whisper(tmp_path_factory, whole_tokenizer):
    """A folder of a multilingual Whisper that knows English and German."""
    import torch
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    folder = tmp_path_factory.mktemp("whisper-tiny-random")
    model = json.loads(whole_tokenizer.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    vocabulary = {token: i for token, i in model["vocab"].items() if not token.startswith("<|")}
    vocabulary["<|endoftext|>"] = len(vocabulary)
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=merges)
    special = ["<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|startofprev|>",
               "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ["<|endoftext|>", *special]}
    torch.manual_seed(1)
    network = WhisperForConditionalGeneration(WhisperConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64,
        decoder_ffn_dim=64, encoder_attention_heads=2, decoder_attention_heads=2, max_target_positions=64,
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
    ))  # fmt: skip
    network.generation_config = GenerationConfig(
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"], no_timestamps_token_id=ids["<|notimestamps|>"],
        lang_to_id={"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]}, is_multilingual=True,
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]}, max_length=20,
        prev_sot_token_id=ids["<|startofprev|>"],
    )  # fmt: skip
    network.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_whisper_folder_transcribes_with_word_times(whisper):
    utterances = load_recogniser(whisper, "cpu").transcribe_batch([noise(2), noise(1)], DecodeOptions())
    assert len(utterances) == 2
    for utterance, seconds in zip(utterances, (2, 1), strict=True):
        assert utterance.text
        for word in utterance.words:
            assert 0 <= word.start <= word.end <= seconds and 0 <= word.confidence <= 1


def test_language_task_and_prompt_change_what_is_written(whisper):
    recogniser, waves = load_recogniser(whisper, "cpu"), [noise(1)]

    def text(**options):
        return recogniser.transcribe_batch(waves, DecodeOptions(word_timestamps=False, **options))[0].text

    plain = text(language="en")
    others = [text(language="de"), text(language="en", task="translate"), text(language="en", initial_prompt="Cat")]
    assert any(other != plain for other in others)


def test_what_a_model_cannot_do_is_refused_before_any_audio(whisper):
    recogniser = load_recogniser(whisper, "cpu")
    with pytest.raises(ValueError, match="it has ar and beam"):
        recogniser.prepare(DecodeOptions("dllm"))
    recogniser.model.generation_config.lang_to_id = None  # as of a model of English
    for options in ({"language": "de"}, {"task": "translate"}):
        with pytest.raises(ValueError, match="English only"):
            recogniser.prepare(DecodeOptions(**options))


def test_pieces_gather_to_words():
    assert word_groups(["\u0120The", "\u0120c", "at", "."]) == [[0], [1, 2, 3]]
    assert word_groups(["\u2581a", "b", "\u2581c"]) == [[0, 1], [2]]


def test_a_converted_folder_goes_to_faster_whisper(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises((OSError, ValueError), match="faster-whisper"):  # cannot load it, or is not installed
        load_recogniser(tmp_path, "cpu")


def test_faster_whisper_is_told_names_and_no_strength(tmp_path, monkeypatch):
    told = {}

    class WhisperModel:
        supported_languages, model = ("en",), SimpleNamespace(is_multilingual=False)

        def __init__(self, *args, **kwargs):
            pass

        def transcribe(self, wave, **options):
            told.update(options)
            return [], None

    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=WhisperModel))
    (tmp_path / "model.bin").touch()
    recogniser, names = load_recogniser(tmp_path, "cpu"), DecodeOptions(hotwords=("Hepzibah", "Moby Dick"))
    recogniser.prepare(names)
    recogniser.transcribe_batch([noise(1)], names)
    assert told["hotwords"] == "Hepzibah, Moby Dick"
    recogniser.transcribe_batch([noise(1)], DecodeOptions())
    assert told["hotwords"] is None
    with pytest.raises(ValueError, match="has no strength"):
        recogniser.prepare(replace(names, hotword_strength=2.0))


def test_a_whisper_of_transformers_says_where_names_go(whisper):
    with pytest.raises(ValueError, match="as --initial_prompt, and through faster-whisper as --hotwords"):
        load_recogniser(whisper, "cpu").prepare(DecodeOptions(hotwords=("Hepzibah",)))


def test_a_multilingual_whisper_whose_conversion_left_its_languages_out(whisper, tmp_path, monkeypatch):
    folder = shutil.copytree(whisper, tmp_path / "converted")
    config = json.loads((folder / "generation_config.json").read_text())
    for name in ("lang_to_id", "task_to_id", "is_multilingual", "no_timestamps_token_id", "prev_sot_token_id"):
        del config[name]
    (folder / "generation_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="writes English only"):  # this small, nobody can tell
        load_recogniser(folder, "cpu").prepare(DecodeOptions(language="de"))
    monkeypatch.setattr("asr.pretrained.sequences.MULTILINGUAL", 0)
    told = [DecodeOptions(), DecodeOptions(language="de", task="translate", initial_prompt="Names")]
    converted, whole = ([load_recogniser(f, "cpu").transcribe_batch([noise(1)], options)[0].text for options in told]
                        for f in (folder, whisper))  # fmt: skip
    assert converted == whole
