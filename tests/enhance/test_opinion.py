"""DNSMOS with a gradient says what the package's network says."""

from pathlib import Path

import numpy as np
import pytest
import torch

import asr
from asr.audio import load
from enhance import metrics

pytest.importorskip("speechmos")
pytest.importorskip("onnx")

from enhance.opinion import Opinion  # noqa: E402


@pytest.fixture(scope="module")
def opinion():
    return Opinion()


@pytest.fixture(scope="module")
def nine_seconds():
    """What DNSMOS hears at once, in noise: for a network of convolutions, one window and no other."""
    speech = load(Path(asr.__file__).parent / "sample.flac")
    noise = 0.01 * np.random.default_rng(0).standard_normal(144160).astype(np.float32)
    return np.resize(speech, 144160) + noise


def test_it_is_the_network_of_the_package(opinion, nine_seconds):
    wanted = metrics.dnsmos(nine_seconds)
    heard = opinion(torch.from_numpy(nine_seconds)[None])[0]
    np.testing.assert_allclose(heard, [wanted[f"dnsmos_{name}"] for name in ("sig", "bak", "ovrl")], atol=0.01)


def test_it_follows_the_gradient_upwards(opinion, nine_seconds):
    wave = torch.from_numpy(nine_seconds[None, :32000]).requires_grad_()
    before = opinion(wave)[0, 2]
    before.backward()
    step = wave.grad / wave.grad.norm()
    assert opinion(wave.detach() + 0.05 * step)[0, 2] > before
    assert not any(weight.requires_grad for weight in opinion.parameters())


def test_silence_has_a_finite_gradient(opinion):
    silence = torch.zeros(1, 8000, requires_grad=True)
    opinion(silence).sum().backward()
    assert silence.grad.isfinite().all()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("enhance.metrics.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install speechmos"):
        Opinion()
