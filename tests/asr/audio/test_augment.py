"""Augmentation does what it says: levels in dB, lengths kept, direct path in place, one seed one result."""

import numpy as np
import pytest
import torch

from asr.audio import augment
from asr.audio.augment import active_power, cut, mix_at_snr, random_room_response, recorded_speech_chain, seeded


def speech(seconds=1.5, seed=0):
    """Noise bursts with pauses: the level of speech without needing a voice."""
    rng = np.random.default_rng(seed)
    wave = 0.1 * rng.standard_normal(int(16000 * seconds)).astype(np.float32)
    wave[4000:9000] = 0
    return wave


@pytest.mark.parametrize("snr", [-5, 0, 12])
def test_mix_at_snr_measures_active_speech(snr):
    noise = np.random.default_rng(1).standard_normal(24000).astype(np.float32)
    added = mix_at_snr(speech(), noise, snr) - speech()
    assert 10 * np.log10(active_power(speech()) / active_power(added)) == pytest.approx(snr, abs=0.1)
    assert active_power(speech()) > 1.2 * np.mean(speech() ** 2)  # the pause does not count


@pytest.mark.parametrize("wave", [speech(), np.zeros(16000, np.float32)])
@pytest.mark.parametrize(
    "step",
    [
        augment.Noise([np.ones(100, np.float32)]),
        augment.Room(),
        augment.BandLimit(),
        augment.Clip(),
        augment.Codec(),
        augment.Gain(),
        augment.Speed((1.0,)),
        augment.Pitch(1.0),
    ],
    ids=lambda step: type(step).__name__,
)
def test_length_and_finiteness_survive(step, wave):
    result = step(wave, seeded(3))
    assert result.shape == wave.shape and np.isfinite(result).all()


def test_speed_changes_duration():
    assert len(augment.Speed((1.25,))(speech(), seeded(0))) == pytest.approx(len(speech()) / 1.25, abs=2)


def test_band_limit_removes_high_frequencies():
    limited = augment.BandLimit(low_pass=(2000.0, 2001.0))(speech(), seeded(0))
    spectrum = np.abs(np.fft.rfft(limited)) ** 2
    assert spectrum[len(spectrum) // 2 :].sum() < 1e-3 * spectrum.sum()


def test_room_keeps_the_direct_path_first():
    for seed in range(5):
        response = random_room_response(seeded(seed), rt60=(0.3, 0.3), direct_to_reverb_db=(6, 6))
        assert response[0] == 1 and np.square(response[1:]).sum() == pytest.approx(10**-0.6, rel=1e-3)
        decay = [np.square(response[i : i + 800]).sum() for i in (800, 3200)]
        assert decay[1] < 0.2 * decay[0]


def test_chain_is_repeatable_and_stays_under_full_scale():
    chain = recorded_speech_chain([speech(seed=5)], strength=3.0)
    first, again, other = (chain(10 * speech(), seeded(*key)) for key in ((1, 2), (1, 2), (1, 3)))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.abs(first).max() <= 0.991


def test_cut_repeats_short_recordings():
    assert len(cut(np.arange(10.0), 35, seeded(0))) == 35


def test_spec_augment_masks_no_more_than_its_share():
    features = torch.ones(200, 80)
    masked = augment.SpecAugment(frequency_masks=0, time_masks=50, time_width=40, time_share=0.25)(features, seeded(0))
    assert 0 < (masked == 0).all(1).sum() <= 50
    assert (features == 1).all()
    bands = augment.SpecAugment(frequency_masks=1, frequency_width=20, time_masks=0)(features, seeded(4))
    assert 0 < (bands == 0).all(0).sum() <= 20


def test_warp_changes_tempo_and_tract_and_keeps_what_it_is_told_to():
    features = torch.zeros(200, 80)
    features[100, 20] = 1.0  # one sound, in the middle, in a low band
    lengths, bands = set(), set()
    for seed in range(40):
        warped = augment.Warp(tempo=0.2, tract=0.15, probability=1.0)(features, seeded(seed))
        frame, band = divmod(int(warped.argmax()), 80)
        assert 200 / 1.2 - 1 <= len(warped) <= 200 / 0.8 + 1 and warped.shape[1] == 80
        assert abs(frame / len(warped) - 0.5) < 0.01  # in the middle still
        lengths.add(len(warped))
        bands.add(band)
    assert len(lengths) > 20 and {min(bands), max(bands)} <= set(range(17, 25)) and len(bands) > 2
    assert augment.Warp(probability=0.0)(features, seeded(1)) is features
