"""VITS through transformers, on a tiny random model."""

import json

import numpy as np
import pytest

from dlm.tts import Utterance, VitsTTS


@pytest.fixture(scope="module")
def tiny_vits(tmp_path_factory):
    import torch
    from transformers import VitsConfig, VitsModel, VitsTokenizer

    folder = tmp_path_factory.mktemp("vits")
    vocabulary = {c: i for i, c in enumerate("_abcdefghijklmnopqrstuvwxyz' ")}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = VitsTokenizer(str(folder / "vocab.json"), pad_token="_", unk_token="_", phonemize=False)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = VitsConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16,
        flow_size=16, spectrogram_bins=9, num_speakers=3, speaker_embedding_size=8, upsample_initial_channel=16,
        posterior_encoder_num_wavenet_layers=1, prior_encoder_num_flows=1, prior_encoder_num_wavenet_layers=1,
        duration_predictor_num_flows=1, depth_separable_num_layers=1, sampling_rate=22050,
    )  # fmt: skip
    VitsModel(config).save_pretrained(folder)
    return folder


def test_speaks_in_order_and_repeatably(tiny_vits):
    tts = VitsTTS(tiny_vits)
    assert tts.available() and [voice.name for voice in tts.voices()] == ["0", "1", "2"]
    voice = tts.voices()[1]
    utterances = [
        Utterance("a much longer sentence than the other", voice),
        Utterance("yes", voice),
        Utterance("a much longer sentence than the other", voice, rate=0.5),
    ]
    waves, again = tts.synthesize(utterances), tts.synthesize(utterances)
    assert len(waves[1]) < len(waves[0]) < len(waves[2])
    assert all(w.dtype == np.float32 and np.isfinite(w).all() for w in waves)
    assert all(np.array_equal(a, b) for a, b in zip(waves, again, strict=True))


def test_speakers_differ(tiny_vits):
    tts = VitsTTS(tiny_vits)
    first, second = (tts.synthesize([Utterance("hello there", voice)])[0] for voice in tts.voices()[:2])
    assert len(first) != len(second) or not np.allclose(first, second)


def test_what_is_no_vits_model_is_said(tmp_path):
    assert not VitsTTS(tmp_path / "nothing").available()
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    with pytest.raises(ValueError, match="is a wav2vec2 model"):
        VitsTTS(tmp_path).voices()
