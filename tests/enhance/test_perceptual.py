"""The perceptual loss: it orders as PESQ does, and always has a gradient."""

from pathlib import Path

import numpy as np
import pytest
import torch

import asr
from asr.audio import load
from enhance import metrics
from enhance.perceptual import disturbance

SNRS = (50, 35, 20)


@pytest.fixture(scope="module")
def waves():
    """Speech, and the same in noise at each ratio in dB."""
    clean = load(Path(asr.__file__).parent / "sample.flac")[:64000]
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32) * np.sqrt(np.mean(clean**2))
    return clean, [clean + noise * 10 ** (-snr / 20) for snr in SNRS]


def opinion(lost: np.ndarray) -> np.ndarray:
    """Wide-band PESQ of a disturbance (P.862.2)."""
    return 0.999 + 4 / (1 + np.exp(-1.3669 * (4.5 - lost) + 3.8224))


def test_more_noise_disturbs_more_and_the_level_does_not_matter(waves):
    clean, noisy = (torch.from_numpy(np.stack(part)) for part in ([waves[0]] * 4, [waves[0], *waves[1]]))
    lost = disturbance(noisy, clean)
    assert lost[0] < 0.05 and (lost.diff() > 0.2).all()
    assert torch.allclose(disturbance(0.1 * noisy, clean), lost, rtol=1e-2, atol=0.02)


def test_it_is_near_the_pesq_package(waves):
    pytest.importorskip("pesq")
    clean, noisy = waves
    lost = disturbance(torch.from_numpy(np.stack(noisy)), torch.from_numpy(np.stack([clean] * len(noisy))))
    wanted = [metrics.pesq(wave, clean) for wave in noisy]
    assert np.abs(opinion(lost.numpy()) - wanted).max() < 0.25


def test_gradients_are_finite_for_sound_and_for_silence(waves):
    clean, noisy = torch.from_numpy(waves[0]), torch.from_numpy(waves[1][1])
    silent = torch.zeros_like(clean)
    estimates = torch.stack((noisy, clean, silent, noisy, silent)).requires_grad_()
    disturbance(estimates, torch.stack((clean, clean, clean, silent, silent))).sum().backward()
    assert estimates.grad.isfinite().all() and estimates.grad[0].abs().max() > 0
