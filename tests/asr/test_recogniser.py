import json
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.compact import CompactEncoder
from asr.loading import load_recogniser
from asr.pretrained.ctc import CTCEncoder, PieceTokenizer
from asr.recogniser import DecodeOptions


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


def waves(*seconds):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(round(16_000 * s)).astype(np.float32) * 0.1 for s in seconds]


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


def test_batching_does_not_change_the_text(recogniser):
    many = waves(2.0, 0.7, 1.3)
    together = [u.text for u in recogniser.transcribe_batch(many, DecodeOptions())]
    alone = [recogniser.transcribe_batch([wave], DecodeOptions())[0].text for wave in many]
    for one, other in zip(together, alone, strict=True):
        assert one[:-2] == other[: len(one) - 2]  # a frame at the border may go either way
        assert abs(len(one) - len(other)) <= 2


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


def test_models_without_ctc(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match="CTC"):
        load_recogniser(tmp_path)


@pytest.mark.parametrize("bad", [{"decoder": "magic"}, {"beam_size": 0}], ids=str)
def test_bad_options(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        DecodeOptions(**bad)
