"""The assembled system: files and arrays of any kind, long recordings in chunks, loading by path, error messages."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from asr.ctc.encoder import EncoderConfig
from enhance.denoise import main
from enhance.denoiser import Denoiser
from enhance.l3se.backbone import CompactBackbone
from enhance.l3se.codec import WavCodec
from enhance.l3se.encoder import NIEncoder
from enhance.l3se.language_model import TokenLM
from enhance.l3se.system import L3SE, in_chunks, match_level

TINY = dataclasses.asdict(EncoderConfig(width=32, heads=2, layers=(1, 1, 1), feed_forward=32, front_channels=4))


@pytest.fixture(scope="module")
def system():
    """Random weights, trained on half a second."""
    torch.manual_seed(0)
    backbone = CompactBackbone(TINY)
    codec = WavCodec(list(backbone.widths), backbone.hop, 32, groups=2, channels=16, layers=2)
    encoder = NIEncoder.from_teachers(backbone, {"acoustic": codec})
    language_model = TokenLM(32, codec.repeat, 2, codec.codes, width=16, layers=1, heads=2, feed_forward=16)
    return L3SE.assemble(encoder, language_model, codec, seconds=0.5)


@pytest.fixture(scope="module")
def folder(system, tmp_path_factory):
    path = tmp_path_factory.mktemp("l3se")
    system.save_pretrained(path)
    return path


def test_a_saved_system_is_the_same(system, folder, hum):
    wave = torch.from_numpy(hum(7000))
    loaded = L3SE.from_pretrained(folder)
    assert loaded.longest == 8000
    torch.testing.assert_close(loaded.enhance(wave), system.enhance(wave))


@pytest.mark.parametrize("samples", [1, 2, 319, 321, 1999, 8000, 8001, 20_011])
def test_the_output_has_the_shape_of_the_input(system, hum, samples):
    wave = torch.from_numpy(hum(samples, channels=2))
    for options in ({}, {"language_model": False}, {"temperature": 1.0, "top_k": 5}):
        enhanced = system.enhance(wave, **options)
        assert enhanced.shape == wave.shape and torch.isfinite(enhanced).all() and enhanced.abs().max() <= 1.0001


def test_without_the_language_model_the_tokens_are_those_of_the_encoder(system, hum):
    wave = torch.from_numpy(hum(5000))
    direct = system.direct_tokens(wave)
    own = system.codec.encode(system.encoder(wave)[0]["acoustic"])
    assert torch.equal(direct, own)
    assert not torch.equal(system.write(wave)[0], direct[:, :16])


def test_the_mean_of_sharp_distributions_is_what_the_tokens_say(system, hum):
    wave = torch.from_numpy(hum(5000))
    tokens, logits = system.write(wave)
    digits = system.codec.mean_digits((1e6 * logits).softmax(-1))
    torch.testing.assert_close(digits, system.codec.quantiser.indices_to_codes(tokens))
    torch.testing.assert_close(system.enhance(wave, sharpness=1e6), system.enhance(wave, sharpness=None))
    even = torch.full_like(logits, 1 / system.codec.codes)
    assert system.codec.mean_digits(even).std(dim=1).max() < 1e-6  # the same wherever nothing is known
    assert not torch.allclose(system.enhance(wave, sharpness=1.0), system.enhance(wave, sharpness=None))


def test_chunks_of_a_local_function_join_without_seams(hum):
    """Where what a chunk does depends on less than its context, chunked and whole are the same everywhere."""
    wave, kernel = torch.from_numpy(hum(50_123, channels=2)), torch.hann_window(401)[None, None] / 200
    calls = []

    def smooth(x):
        calls.append(x.shape[1])
        return torch.conv1d(x[:, None], kernel, padding=200)[:, 0]

    torch.testing.assert_close(in_chunks(wave, smooth, 8000), smooth(wave), atol=1e-5, rtol=1e-4)
    assert max(calls[:-1]) <= 8000 and len(calls) > 6


@pytest.mark.parametrize("extra", range(-3, 4))
def test_chunks_cover_every_sample_once(extra):
    wave = torch.ones(1, 3 * 6000 + extra)
    torch.testing.assert_close(in_chunks(wave, lambda x: x, 8000), wave)


def test_the_level_is_continuous_over_chunk_borders(system):
    """A steady sound: what comes out of neighbouring chunks is equally loud."""
    time = torch.arange(48_000) / 16_000
    wave = 0.2 * torch.sin(2 * torch.pi * 440 * time)[None] * (1 + 0.5 * torch.sin(2 * torch.pi * 4 * time))
    powers = system.enhance(wave)[0, 2000:-2000].unfold(0, 8000, 2000).square().mean(1)
    assert float(powers.max() / powers.min()) < 2.5  # 4 dB


def test_level_follows_the_speech_and_not_the_noise():
    torch.manual_seed(0)
    gate = (torch.arange(32_000) % 8000 < 4000).float()[None]
    speech, noise = 0.2 * torch.randn(1, 32_000) * gate, 0.1 * torch.randn(1, 32_000)
    written = 0.03 * speech
    restored = match_level(written, speech + noise)
    assert float(restored.std() / speech.std()) == pytest.approx(1.0, abs=0.15)
    assert not match_level(written, torch.zeros(1, 32_000)).any()


@pytest.mark.parametrize("rate, channels", [(16_000, 1), (44_100, 2), (8_000, 1)])
def test_denoiser_keeps_rate_channels_and_length(folder, hum, tmp_path, rate, channels):
    wave = hum(rate + 77, rate, channels)
    soundfile.write(tmp_path / "in.wav", wave.T, rate)
    denoiser = Denoiser.from_pretrained(folder)
    seconds = []
    denoiser.denoise_file(tmp_path / "in.wav", tmp_path / "out.wav", seconds.append)
    written, written_rate = soundfile.read(tmp_path / "out.wav", always_2d=True, dtype="float32")
    assert (
        written_rate == rate and written.shape == wave.T.shape and sum(seconds) == pytest.approx(wave.shape[1] / rate)
    )
    direct = denoiser(np.round(wave * 32767).astype(np.int16), rate)
    assert direct.shape == wave.shape and np.abs(direct).max() > 0


def test_denoise_program(folder, hum, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", hum(6000)[0], 16_000)
    (tmp_path / "bad.wav").write_bytes(b"RIFF but not really")
    arguments = [
        str(tmp_path / "a.wav"),
        str(tmp_path / "bad.wav"),
        "-o",
        str(tmp_path / "out"),
        "--model",
        str(folder),
    ]
    assert main(arguments) == 1
    assert soundfile.info(tmp_path / "out" / "a.wav").frames == 6000 and "bad.wav" in capsys.readouterr().err
    assert main([str(tmp_path / "a.wav"), "-o", str(tmp_path / "out"), "--model", str(folder), "--plot"]) == 2
    assert "leave out --raw and --plot" in capsys.readouterr().err
    assert main([*arguments, "--attenuation_limit", "6"]) == 2 and "attenuation" in capsys.readouterr().err


def test_without_weights_it_says_train_first(tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16_000)
    assert main([str(tmp_path / "a.wav"), "-o", str(tmp_path / "out"), "--model", "l3se"]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1 and "recipes.train_l3se" in message


def test_transcribe_says_so_too(tmp_path, capsys):
    from asr.transcribe import main as transcribe

    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    assert transcribe([str(tmp_path / "a.wav"), "--enhance", "l3se"]) == 2
    assert "recipes.train_l3se" in capsys.readouterr().err


def test_a_semantic_encoder_has_no_control_without_language_model():
    backbone = CompactBackbone(TINY)
    codec = WavCodec(list(backbone.widths), backbone.hop, 32, groups=1, channels=8, layers=1)
    encoder = NIEncoder(backbone.spec, ["semantic"])
    language_model = TokenLM(32, codec.repeat, 1, codec.codes, width=8, layers=1, heads=1, feed_forward=8)
    with pytest.raises(ValueError, match="semantic head only"):
        L3SE.assemble(encoder, language_model, codec, 0.5).enhance(torch.zeros(1, 800), language_model=False)
