import numpy as np
import pytest

from asr.audio.augment import seeded
from enhance import noises

SAMPLES = 32_000


def spectrum(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.fft.rfftfreq(len(wave), 1 / 16_000), np.abs(np.fft.rfft(wave)) ** 2


@pytest.fixture
def talker(hum):
    return lambda rng: hum(int(rng.integers(8000, 50_000)))[0]


@pytest.mark.parametrize("kind", noises.KINDS)
def test_every_kind_repeats_with_its_seed_and_fills_the_stretch(kind, talker):
    make = getattr(noises, kind)
    arguments = (talker,) if kind == "babble" else ()
    first, again, other = (make(SAMPLES, seeded(seed), *arguments) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (SAMPLES,) and first.dtype == np.float32 and np.isfinite(first).all()
    assert np.square(first.reshape(8, -1)).mean(1).min() > 0


def test_all_kinds_are_drawn(talker, monkeypatch):
    drawn = []
    for kind in noises.KINDS:
        monkeypatch.setattr(noises, kind, lambda *_, kind=kind: drawn.append(kind))
    for seed in range(40):
        noises.synthetic_noise(100, seeded(seed), talker)
    assert set(drawn) == set(noises.KINDS)


def test_hum_has_lines_at_multiples_of_mains():
    wave = noises.hum(SAMPLES, seeded(3))
    frequency, power = spectrum(wave)
    strongest = frequency[power.argmax()]
    assert min(abs(strongest - base * round(strongest / base)) for base in (50, 60)) < 2
    assert power.max() > 100 * np.median(power)


def test_wind_is_low_and_gusty():
    wave = noises.wind(SAMPLES * 4, seeded(4))
    frequency, power = spectrum(wave)
    assert power[frequency < 300].sum() > 0.8 * power.sum()
    loudness = np.square(wave.reshape(-1, 4000)).mean(1)
    assert loudness.max() > 4 * loudness.min()


def test_clicks_are_short_and_separate():
    loudness = np.square(noises.clicks(SAMPLES, seeded(5)).reshape(-1, 160)).mean(1)
    assert loudness.max() > 100 * np.median(loudness)


def test_one_hushed_talker_does_not_vanish_in_babble(talker):
    """Levels are evened out before talkers are added: scaling a recording changes nothing."""
    quiet = noises.babble(SAMPLES, seeded(6), lambda rng: 1e-3 * talker(rng))
    np.testing.assert_allclose(quiet, noises.babble(SAMPLES, seeded(6), talker), rtol=1e-3, atol=1e-4)
