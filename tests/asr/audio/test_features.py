"""Features against their definitions."""

import librosa
import numpy as np
import pytest
import torch

from asr.audio.features import LogMel, istft, log_mel, normalise, stft


def test_log_mel_equals_librosa():
    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    mel = librosa.feature.melspectrogram(
        y=wave, sr=16000, n_fft=512, hop_length=160, win_length=400, n_mels=80, fmin=40, fmax=7600, htk=True
    )
    np.testing.assert_allclose(log_mel(torch.from_numpy(wave)).numpy(), np.log(mel.T + 1e-6), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("samples", [1, 159, 160, 16000])
def test_one_frame_every_ten_milliseconds(samples):
    assert log_mel(torch.zeros(samples)).shape == (samples // 160 + 1, 80)


def test_warp_moves_energy_down_the_axis():
    time = torch.arange(16000) / 16000
    tone = torch.sin(2 * torch.pi * 1000 * time)
    peaks = [int(log_mel(tone, warp=w).mean(0).argmax()) for w in (0.85, 1.0, 1.15)]
    assert peaks[0] > peaks[1] > peaks[2]


def test_normalised_features_forget_the_channel():
    wave = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    loud, quiet = normalise(log_mel(wave)), normalise(log_mel(0.1 * wave))
    assert float((loud - quiet).abs().mean()) < 5e-3 < float((log_mel(wave) - log_mel(0.1 * wave)).abs().mean())
    assert torch.isfinite(normalise(log_mel(torch.zeros(8000)))).all()


def test_batch_equals_single():
    waves = [torch.randn(8000), torch.randn(12345)]
    features, lengths = LogMel()(waves)
    assert lengths.tolist() == [51, 78] and features.shape == (2, 78, 80)
    assert torch.equal(features[0, :51], normalise(log_mel(waves[0]))) and not features[0, 51:].any()


@pytest.mark.parametrize("samples", [512, 16000, 16001])
def test_stft_inverts(samples):
    wave = torch.randn(2, samples)
    torch.testing.assert_close(istft(stft(wave), samples), wave, atol=1e-5, rtol=1e-5)
