import json

import numpy as np
import pytest
import torch
from torch import nn

from enhance.loading import load_enhancer
from enhance.networks.adaptcrn import AdaptCRN, AdaptCRNConfig
from enhance.networks.bands import ErbBands, compress, subbands
from enhance.networks.gtcrn import GTCRN, GTCRNConfig
from enhance.networks.overlap_add import OverlapAdd
from enhance.speed import count_macs


@pytest.mark.parametrize(
    "model, parameters",
    [
        (AdaptCRN(), 134_513),
        (AdaptCRN(AdaptCRNConfig(num_kernels=1)), 29_440),
        (AdaptCRN(AdaptCRNConfig(channel_attention=False)), 124_679),
        (GTCRN(), 23_669),
    ],
    ids=["adaptcrn", "without adaptive parts", "without channel attention", "gtcrn"],
)
def test_published_parameter_counts(model, parameters):
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_state_is_as_small_as_published(adaptcrn):
    state = adaptcrn.initial_state()
    assert sum(value.numel() for value in state.values()) == 6 * 16 * 2 * 33 + 10 * 32 + 2 * 33 * 16
    assert sum(name.endswith(".past") for name in state) == 6


@pytest.mark.parametrize("sizes", [[1] * 9, [2, 3, 4], [9]])
def test_stream_equals_offline(network, sizes):
    spectrum = torch.randn(2, 9, 257, 2)
    with torch.inference_mode():
        expected, final = network(spectrum)
        state, chunks = {}, []
        for chunk in spectrum.split(sizes, 1):
            enhanced, state = network(chunk, state)
            chunks.append(enhanced)
    torch.testing.assert_close(torch.cat(chunks, 1), expected, atol=1e-5, rtol=1e-4)
    assert state.keys() == final.keys() == network.initial_state().keys()


def test_explicit_zeros_are_a_fresh_start(network):
    spectrum = torch.randn(1, 4, 257, 2)
    with torch.inference_mode():
        torch.testing.assert_close(network(spectrum, network.initial_state())[0], network(spectrum)[0])


def test_future_samples_do_not_matter(network, hum):
    wave = torch.from_numpy(hum(8000))
    disturbed = wave.clone()
    disturbed[:, 5000:] += 0.1 * torch.randn(1, 3000)
    difference = (network.enhance(wave) - network.enhance(disturbed)).abs()[0]
    assert difference[: 5000 - network.fft_size].max() == 0
    assert difference[5000:].max() > 0


def test_folding_batch_norm_changes_nothing_but_the_modules(network):
    folded, spectrum = network.fold(), torch.randn(1, 5, 257, 2)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(spectrum)[0], network(spectrum)[0], atol=1e-5, rtol=1e-4)


def test_waveform_equals_a_spectrum_made_with_torch(adaptcrn, hum):
    """Overlap-add by hand against torch.stft and torch.istft on a padded waveform."""
    wave = torch.from_numpy(hum(256 * 12))
    window = torch.hann_window(512).sqrt()
    padded = nn.functional.pad(wave, (256, 256))
    spectrum = torch.stft(padded, 512, 256, window=window, center=False, return_complex=True).transpose(1, 2)
    with torch.inference_mode():
        enhanced, _ = adaptcrn(torch.view_as_real(spectrum))
    frames = torch.fft.irfft(torch.view_as_complex(enhanced.contiguous())) * window
    expected = frames[:, 1:, :256] + frames[:, :-1, 256:]
    torch.testing.assert_close(adaptcrn.enhance(wave), expected.flatten(1), atol=1e-6, rtol=1e-4)


def test_every_parameter_learns():
    model = AdaptCRN().train()
    spectrum = torch.randn(2, 6, 257, 2)
    model(spectrum)[0].square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_mask_is_bounded_and_silence_stays_silence(adaptcrn):
    mask, _ = adaptcrn.mask(torch.randn(1, 6, 257, 2))
    assert mask.shape == (1, 6, 257) and mask.min() >= 0 and mask.max() <= adaptcrn.config.mask_limit
    assert adaptcrn.enhance(torch.zeros(1, 4000)).abs().max() == 0


def test_erb_bands_keep_constants_and_cover_every_bin():
    bands = ErbBands()
    assert bands.matrix.shape == (192, 64)
    assert (bands.matrix.sum(0) > 0).all()
    torch.testing.assert_close(bands.spread(torch.full((129,), 0.7)), torch.full((257,), 0.7))
    spectrum = torch.arange(257.0)
    torch.testing.assert_close(bands.merge(spectrum)[:65], spectrum[:65])
    torch.testing.assert_close(bands.merge(spectrum).sum(), spectrum.sum())


def test_subbands_are_neighbours():
    x = torch.arange(5.0).view(1, 1, 1, 5)
    assert subbands(x)[0, :, 0].tolist() == [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]


def test_compression_keeps_the_phase():
    spectrum = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0]]) * 5**0.3
    torch.testing.assert_close(compress(spectrum, 0.3), expected)


@pytest.mark.parametrize(
    "config", [AdaptCRNConfig(num_kernels=4, attention="multi"), GTCRNConfig(num_kernels=2)]
)
def test_saving_and_loading(config, tmp_path, hum):
    model = (AdaptCRN if config.architecture == "adaptcrn" else GTCRN)(config).eval()
    model.save_pretrained(tmp_path)
    loaded = load_enhancer(tmp_path)
    assert loaded.config == config and not loaded.training
    wave = torch.from_numpy(hum(2000))
    torch.testing.assert_close(loaded.enhance(wave), model.enhance(wave))


def test_half_precision_weights_load_as_single(adaptcrn, tmp_path, hum):
    adaptcrn.save_pretrained(tmp_path / "full")
    adaptcrn.save_half(tmp_path / "half")
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded, wave = AdaptCRN.from_pretrained(tmp_path / "half"), torch.from_numpy(hum(4000))
    assert next(loaded.parameters()).dtype == torch.float32
    error = (loaded.enhance(wave) - adaptcrn.enhance(wave)).square().mean() / wave.square().mean()
    assert error < 1e-4


def test_loading_prints_nothing(saved_model, capsys):
    load_enhancer(saved_model)
    assert capsys.readouterr().out == ""


def offline(*arguments):
    raise OSError("no network in tests")


def test_unknown_models_are_named(saved_model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match="no/such/model"):
        load_enhancer("no/such/model")
    config = json.loads((saved_model / "config.json").read_text())
    (saved_model / "config.json").write_text(json.dumps({**config, "architecture": "wavenet"}))
    with pytest.raises(ValueError, match="wavenet.*adaptcrn"):
        load_enhancer(saved_model)


def test_missing_shipped_weights_tell_how_to_make_them(monkeypatch, tmp_path):
    monkeypatch.setattr("enhance.networks.enhancer.WEIGHTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="experiment=adaptcrn_compact"):
        AdaptCRN.from_pretrained(None)


def test_macs_by_hand():
    """The plain network's convolutions, GRUs, linear layers and ERB matrices counted on paper, per frame."""
    counts = count_macs(AdaptCRN(AdaptCRNConfig(num_kernels=1)))
    depthwise = 9 * 5 * 65 + 16 * 5 * 33 + 6 * 16 * 9 * 33 + 16 * 5 * 33 + 16 * 5 * 65
    pointwise = 65 * (9 * 16 + 256) + 33 * 512 * 7 + 65 * 512 + 129 * (16 * 4 + 4)
    gru = 2 * 33 * (4 * 3 * (8 * 4 + 4 * 4) + 2 * 3 * (8 * 8 + 8 * 8))
    per_second = 62.5 / 1e6
    assert counts["convolution"] == pytest.approx((depthwise + pointwise) * per_second)
    assert counts["gru"] == pytest.approx(gru * per_second)
    assert counts["linear"] == pytest.approx(2 * 2 * 33 * 256 * per_second)
    assert counts["erb"] == pytest.approx(4 * 192 * 64 * per_second)
    assert counts["assembly"] == 0
    assert count_macs(AdaptCRN())["assembly"] == pytest.approx(8 * 5713 * per_second)


def test_memory_of_long_waveforms_is_bounded_by_steps(adaptcrn, hum, monkeypatch):
    wave = torch.from_numpy(hum(20_000))
    expected = OverlapAdd(adaptcrn).whole(wave)
    monkeypatch.setattr("enhance.networks.overlap_add.FRAMES_PER_STEP", 7)
    np.testing.assert_allclose(OverlapAdd(adaptcrn).whole(wave), expected, atol=1e-5)
