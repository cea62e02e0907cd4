"""Noise added to stored features against noise added to the waveform."""

import numpy as np
import pytest
import torch

from asr.audio.augment import mix_at_snr, seeded
from asr.audio.features import whisper_log_mel
from recipes.data.store import write_shard
from recipes.data.stored_noise import StoredNoise, powers

RNG = np.random.default_rng(3)
TIME = np.arange(32000) / 16000
VOICE = sum(np.sin(2 * np.pi * 160 * k * TIME) / k for k in range(1, 20)).astype(np.float32) * 0.1
HISS = RNG.standard_normal(64000).astype(np.float32) * 0.01


@pytest.fixture
def store(tmp_path):
    noise = whisper_log_mel(torch.from_numpy(HISS), 80).numpy()
    write_shard(tmp_path / "noise", 0, [{"id": "hiss", "text": "", "speaker": ""}], [noise], "whisper")
    return str(tmp_path / "noise")


def test_features_with_noise_are_those_of_the_noisy_waveform(store):
    clean = whisper_log_mel(torch.from_numpy(VOICE), 80)
    for snr in (0.0, 15.0):
        added = StoredNoise(store, (snr, snr), 1.0)(clean, seeded(4))
        mixed = whisper_log_mel(torch.from_numpy(mix_at_snr(VOICE, HISS[: len(VOICE)], snr)), 80)
        before, after = ((x - mixed).abs().mean() for x in (clean, added))
        assert after < 0.2 * before, (snr, before, after)  # what is left is chance: other hiss, levels of log-mel
        assert added.shape == clean.shape and float(added.min()) >= float(added.max()) - 2.0 - 1e-5


def test_long_utterances_hear_the_noise_over_and_over_and_some_hear_none(store):
    features = whisper_log_mel(torch.from_numpy(np.tile(VOICE, 6)), 80)
    noisy = StoredNoise(store, (0.0, 0.0), 1.0)(features, seeded(1))
    assert bool((powers(noisy)[:, 60:].mean(1) > 3 * powers(features)[:, 60:].mean(1)).float().mean() > 0.9)
    assert StoredNoise(store, probability=0.0)(features, seeded(1)) is features
