import json
from pathlib import Path

import pytest
import torch

from asr.compact import CompactEncoder
from asr.loading import DEFAULT, SHIPPED, WEIGHTS, load_recogniser, shipped
from asr.pretrained.ctc import CTCEncoder, PieceTokenizer
from asr.recogniser import DecodeOptions
from tests.asr.conftest import waves


@pytest.fixture(scope="module")
def tiny_wav2vec2(tmp_path_factory) -> Path:
    """Folder of a random wav2vec2 with CTC head that never says blank, so every wave gets some text."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("tiny_wav2vec2")
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVKXJQZ'"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    processor = Wav2Vec2Processor(
        feature_extractor=Wav2Vec2FeatureExtractor(return_attention_mask=True),
        tokenizer=Wav2Vec2CTCTokenizer(str(folder / "vocab.json")),
    )
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(vocabulary), pad_token_id=0, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, conv_dim=(16,) * 7, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2, feat_extract_norm="layer", do_stable_layer_norm=True,
    )
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight *= 10  # more variety than the same token all along
        model.lm_head.bias[:4] = -1e4
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recogniser(tiny_wav2vec2):
    return load_recogniser(tiny_wav2vec2, "cpu")


def test_a_transformers_folder_becomes_a_recogniser(recogniser, tiny_wav2vec2):
    from transformers import AutoModelForCTC, AutoProcessor

    assert isinstance(recogniser.encoder, CTCEncoder)
    assert recogniser.sampling_rate == 16_000 and recogniser.hop_seconds == 0.02
    wave = waves(2.0)[0]
    processor = AutoProcessor.from_pretrained(tiny_wav2vec2)
    model = AutoModelForCTC.from_pretrained(tiny_wav2vec2)
    with torch.inference_mode():
        path = model(**processor(wave, sampling_rate=16_000, return_tensors="pt")).logits.argmax(-1)
    expected = " ".join(processor.batch_decode(path)[0].split())
    assert expected
    assert recogniser.transcribe_batch([wave], DecodeOptions())[0].text == expected


@pytest.mark.parametrize("one_by_one", [True, False], ids=["one by one", "padded"])
def test_a_batch_gives_what_single_waves_give(recogniser, monkeypatch, one_by_one):
    monkeypatch.setattr(recogniser.encoder, "one_by_one", one_by_one)
    many = waves(2.0, 0.7, 1.3, 0.41)
    counts = recogniser.encoder.model._get_feat_extract_output_lengths
    _, lengths = recogniser.log_probabilities(many)
    assert lengths.tolist() == [int(counts(torch.tensor(len(wave)))) for wave in many]
    together = [u.text for u in recogniser.transcribe_batch(many, DecodeOptions())]
    assert together == [recogniser.transcribe_batch([wave], DecodeOptions())[0].text for wave in many]


def test_models_that_hear_padding_take_waves_one_by_one(tiny_wav2vec2, tmp_path, monkeypatch):
    """Those whose first layer normalises over time, as wav2vec2-base does: they come without an attention mask."""
    for file in tiny_wav2vec2.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (tmp_path / name).exists():
            text = (tmp_path / name).read_text()
            (tmp_path / name).write_text(text.replace('_attention_mask": true', '_attention_mask": false'))
    encoder = CTCEncoder(tmp_path, "cpu")
    assert not encoder.extractor.return_attention_mask and encoder.one_by_one


def test_clips_shorter_than_the_receptive_field(recogniser):
    utterances = recogniser.transcribe_batch(waves(0.001, 0.02, 1.0), DecodeOptions())
    assert len(utterances) == 3 and utterances[2].text
    assert utterances[2].text == recogniser.transcribe_batch(waves(0.001, 0.02, 1.0)[2:], DecodeOptions())[0].text


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_words_lie_in_order_inside_the_wave(recogniser, decoder):
    wave = waves(2.0)[0]
    utterance = recogniser.transcribe_batch([wave], DecodeOptions(decoder=decoder, beam_size=4))[0]
    assert " ".join(word.text for word in utterance.words) == utterance.text
    times = [time for word in utterance.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 2.0
    assert all(0 <= word.confidence <= 1 for word in utterance.words)


def test_beam_gives_an_nbest_list_in_order(recogniser):
    options = DecodeOptions("beam", beam_size=4, word_timestamps=False)
    utterance = recogniser.transcribe_batch(waves(1.0), options)[0]
    scores = [score for _, score in utterance.nbest]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True)
    assert utterance.nbest[0] == (utterance.text, utterance.score)
    assert utterance.words == []


def test_piece_tokenizer_puts_the_blank_first():
    class SentencePieces:
        all_special_ids = [0]

        def convert_ids_to_tokens(self, i):
            return ["<unk>", "▁he", "llo", "▁", "you", None][i]

    tokenizer = PieceTokenizer(SentencePieces(), [5, 0, 1, 2, 3, 4])
    assert tokenizer.decode([2, 3, 0, 1, 4, 5]) == "hello you"
    assert [tokenizer.starts_word(i) for i in range(6)] == [False, False, True, False, True, False]


def test_our_own_folder_becomes_the_compact_recogniser(tiny_ctc_model):
    recogniser = load_recogniser(tiny_ctc_model, "cpu")
    assert isinstance(recogniser.encoder, CompactEncoder)
    utterances = recogniser.transcribe_batch(waves(1.0, 0.1), DecodeOptions())
    assert len(utterances) == 2 and utterances[0].text
    assert " ".join(word.text for word in utterances[0].words) == utterances[0].text


def test_a_model_without_text_decoders_says_what_it_has(recogniser):
    with pytest.raises(ValueError, match="this one has greedy and beam"):
        recogniser.transcribe_batch(waves(0.5), DecodeOptions(decoder="ar"))


def test_models_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="config.json is missing"):
        load_recogniser(tmp_path)
    with pytest.raises(OSError, match="nobody/nothing: neither a folder nor a model"):
        load_recogniser("nobody/nothing")


def test_the_default_is_not_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in SHIPPED:
        (tmp_path / name).mkdir()
    assert shipped(None) == WEIGHTS / SHIPPED[DEFAULT] and shipped(DEFAULT) == DEFAULT


def test_models_of_another_kind(tmp_path, tiny_denoiser):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match="CTC"):
        load_recogniser(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": [[1, 0]], "lang_ids": [1]}))
    with pytest.raises(ValueError, match="no recogniser"):
        load_recogniser(tmp_path)
    with pytest.raises(ValueError, match="no recogniser"):
        load_recogniser(tiny_denoiser["dllm"])


def test_what_the_options_ask_for_is_checked_before_audio(tiny_ctc_model, tiny_wav2vec2, tiny_denoiser, tmp_path):
    def prepared(model, **options):
        load_recogniser(model, "cpu").prepare(DecodeOptions(**options))

    prepared(tiny_ctc_model, decoder="dllm", decoder_model=str(tiny_denoiser["dllm"]))
    with pytest.raises(ValueError, match="greedy and beam"):
        prepared(tiny_wav2vec2, decoder="dllm")
    for decoder, missing in (("dllm", "denoiser"), ("ar", "twin")):
        with pytest.raises(ValueError, match=f"{missing}: name its folder by --decoder_model"):
            prepared(tiny_ctc_model, decoder=decoder)
    with pytest.raises(ValueError, match="language model"):
        prepared(tiny_ctc_model, decoder="fused", decoder_model=str(tiny_denoiser["ar"]))
    for wrong in (tiny_ctc_model, tiny_wav2vec2):
        with pytest.raises(ValueError, match="holds no Denoiser"):
            prepared(tiny_ctc_model, decoder="ar", decoder_model=str(wrong))
    (tmp_path / "cut").mkdir()
    for file in tiny_denoiser["ar"].iterdir():
        (tmp_path / "cut" / file.name).write_bytes(file.read_bytes()[:-100])
    with pytest.raises((ValueError, OSError), match="cut"):
        prepared(tiny_ctc_model, decoder="ar", decoder_model=str(tmp_path / "cut"))


@pytest.mark.parametrize("bad", [{"decoder": "magic"}, {"beam_size": 0}], ids=str)
def test_bad_options(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        DecodeOptions(**bad)
