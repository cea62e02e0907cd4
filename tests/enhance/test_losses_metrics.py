import importlib.util

import numpy as np
import pytest
import torch

from asr.audio.features import istft, stft
from enhance import metrics
from enhance.losses import enhancement_loss, si_snr


def pieces(wave):
    spectrum = torch.view_as_real(stft(wave))
    return spectrum, istft(torch.view_as_complex(spectrum), wave.shape[-1])


def test_si_snr_is_the_ratio_of_orthogonal_parts():
    time = torch.arange(16_000) / 16_000
    clean, noise = torch.sin(2 * torch.pi * 200 * time), torch.sin(2 * torch.pi * 300 * time)
    assert si_snr(clean + 0.1 * noise, clean) == pytest.approx(20, abs=0.01)
    assert si_snr(5 * (clean + 0.1 * noise) + 3, clean) == pytest.approx(20, abs=0.01)
    assert torch.isfinite(si_snr(torch.zeros(100), torch.zeros(100)))


def test_loss_by_hand():
    """A single sine of amplitude a against one of amplitude b: only the magnitudes differ, SI-SNR is perfect."""
    torch.manual_seed(0)
    clean = 0.1 * torch.randn(1, 4096)
    (reference, wave), (estimate, quieter) = pieces(clean), pieces(0.5 * clean)
    loss, parts = enhancement_loss(estimate, reference, quieter, wave)
    energy = (1 - 0.5**0.3) ** 2 * torch.view_as_complex(reference).abs().pow(0.6).mean()
    assert parts["magnitude"] == pytest.approx(float(energy), rel=1e-3)
    assert parts["complex"] == pytest.approx(float(energy), rel=1e-3)
    assert loss == pytest.approx(float(energy - 0.001 * parts["si_snr"]), rel=1e-3)


def test_loss_falls_towards_the_target_and_has_finite_gradients_in_silence():
    clean, noise = 0.1 * torch.randn(2, 4096), 0.1 * torch.randn(2, 4096)
    clean[1] = 0
    losses = []
    for level in (1.0, 0.3, 0.0):
        estimate, wave = pieces((clean + level * noise).requires_grad_())
        loss, _ = enhancement_loss(estimate, torch.view_as_real(stft(clean)), wave, clean)
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    silent = torch.zeros(1, 4096, requires_grad=True)
    loss, _ = enhancement_loss(*(pieces(silent)[0], pieces(clean[1:])[0], silent, clean[1:]))
    loss.backward()
    assert torch.isfinite(silent.grad).all()


needs_packages = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("pesq", "pystoi", "speechmos")),
    reason="needs extra metrics",
)


@needs_packages
def test_metrics_tell_good_from_bad(speak):
    clean = speak("the quick brown fox jumps over the lazy dog")
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    slightly, badly = clean + 0.003 * noise, clean + 0.1 * noise
    functions = metrics.metric_functions()
    assert list(functions) == ["si_snr", "pesq", "stoi", "estoi"]
    for name, function in functions.items():
        assert function(clean, clean) > function(slightly, clean) > function(badly, clean), name
    assert functions["pesq"](clean, clean) > 4.5 and functions["stoi"](clean, clean) == pytest.approx(1)
    assert metrics.dnsmos(slightly)["dnsmos_ovrl"] > metrics.dnsmos(badly)["dnsmos_ovrl"]


@needs_packages
@pytest.mark.parametrize("length", [0, 100, 16_000])
def test_metrics_of_silence_and_scraps_are_not_numbers_but_no_errors(length):
    silence = np.zeros(length, np.float32)
    for name in ("pesq", "stoi", "estoi"):
        assert np.isnan(metrics.metric_functions([name])[name](silence, silence))


def test_metrics_without_their_packages_are_left_out(monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    assert list(metrics.metric_functions()) == ["si_snr"]
