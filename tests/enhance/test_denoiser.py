import numpy as np
import pytest
import soundfile
import torch

from asr.audio import AudioError
from enhance.denoiser import Denoiser

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000]


@pytest.fixture(scope="module")
def denoiser(adaptcrn):
    return Denoiser(adaptcrn)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", [0.0001, 0.01, 1.013])
def test_every_rate_and_length_keeps_shape_and_level(denoiser, hum, rate, seconds):
    wave = hum(max(1, int(rate * seconds)), rate, channels=2)
    enhanced = denoiser(wave, rate)
    assert enhanced.shape == wave.shape and enhanced.dtype == np.float32
    assert np.isfinite(enhanced).all() and np.abs(enhanced).max() < 2 * np.abs(wave).max()


@pytest.mark.parametrize("rate", RATES)
def test_an_enhancer_that_changes_nothing_returns_the_recording(adaptcrn, hum, rate):
    """Resampling there and back, the upper band and all delays cancel out."""
    wave = hum(rate + 77, rate)[0]
    np.testing.assert_allclose(Denoiser(adaptcrn, attenuation_limit=0)(wave, rate), wave, atol=1e-5)


def test_at_16_khz_it_is_the_network(denoiser, adaptcrn, hum):
    wave = hum(9000)
    expected = adaptcrn.enhance(torch.from_numpy(wave)).numpy()
    np.testing.assert_allclose(denoiser(wave, 16_000), expected, atol=1e-5)


def test_the_upper_band_follows_the_top_of_the_lower_one(adaptcrn):
    """Noise everywhere: above 8 kHz it is lowered about as much as from 6 to 8 kHz."""
    wave = 0.1 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    before, after = (np.abs(np.fft.rfft(w)) ** 2 for w in (wave, Denoiser(adaptcrn)(wave, 48_000)))
    gain = {
        band: after[slice(*band)].sum() / before[slice(*band)].sum()
        for band in ((6000, 7700), (8500, 24_000))
    }
    lower, upper = gain.values()
    assert lower < 0.9  # otherwise this shows nothing
    assert 10 * abs(np.log10(upper / lower)) < 1.5


def test_blocks_do_not_matter(denoiser, hum):
    wave = hum(30_000, 44_100, channels=2).T
    whole = np.concatenate(list(denoiser.stream([wave], 44_100)))
    parts = np.concatenate(list(denoiser.stream(np.array_split(wave, 17), 44_100)))
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_integers_are_scaled(denoiser, hum):
    wave = np.round(hum(4000)[0] * 32768).astype(np.int16)
    np.testing.assert_allclose(denoiser(wave, 16_000), denoiser(wave / np.float32(32768), 16_000), atol=1e-6)


@pytest.mark.parametrize("make", [
    lambda t: np.zeros_like(t), lambda t: np.full_like(t, 0.5), lambda t: np.sign(np.sin(2000 * t)),
    lambda t: np.where(t == t[500], 1.0, 0.0).astype(np.float32),
], ids=["silence", "offset", "full-scale square", "click"])  # fmt: skip
def test_odd_signals_stay_finite_and_bounded(denoiser, make):
    wave = make(np.arange(8000, dtype=np.float32) / 16_000)
    enhanced = denoiser(wave, 16_000)
    assert np.isfinite(enhanced).all() and np.abs(enhanced).max() <= 1.5 * np.abs(wave).max()


def test_files_keep_rate_channels_and_length(denoiser, hum, tmp_path):
    wave = hum(20_001, 44_100, channels=2)
    soundfile.write(tmp_path / "in.flac", wave.T, 44_100)
    counted = []
    denoiser.denoise_file(tmp_path / "in.flac", tmp_path / "out" / "in.flac", counted.append)
    enhanced, rate = soundfile.read(tmp_path / "out" / "in.flac", dtype="float32")
    assert rate == 44_100 and enhanced.shape == (20_001, 2) and sum(counted) == pytest.approx(20_001 / 44_100)
    np.testing.assert_allclose(enhanced.T, denoiser(wave, 44_100), atol=2e-4)


def test_a_path_is_read_as_mono(denoiser, hum, tmp_path):
    wave = hum(5000, channels=2)
    soundfile.write(tmp_path / "in.wav", wave.T, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(denoiser(tmp_path / "in.wav"), denoiser(wave.mean(0), 16_000), atol=1e-5)


def test_bad_files_leave_nothing_behind(denoiser, hum, tmp_path):
    broken = hum(5000)[0]
    broken[4000] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 16_000, subtype="FLOAT")
    (tmp_path / "empty.wav").write_bytes(b"")
    for name, message in (("nan.wav", "NaN"), ("empty.wav", "empty"), ("missing.wav", "no such file")):
        with pytest.raises(AudioError, match=f"{name}.*{message}"):
            denoiser.denoise_file(tmp_path / name, tmp_path / "out" / "x.wav")
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_arrays_that_are_no_recordings(denoiser):
    for array, rate in (
        (np.zeros((2, 3, 4)), 16_000),
        (np.zeros(0), 16_000),
        (np.zeros(10), None),
        (np.zeros(9), 3),
    ):
        with pytest.raises(AudioError):
            denoiser(array, rate)


@pytest.mark.slow
def test_memory_does_not_grow_with_length(denoiser):
    """Ten minutes at 48 kHz stereo, block by block."""
    import tracemalloc

    def blocks(count):
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield 0.1 * rng.standard_normal((96_000, 2)).astype(np.float32)

    peaks = []
    for count in (30, 300):
        tracemalloc.start()
        assert sum(len(b) for b in denoiser.stream(blocks(count), 48_000)) == count * 96_000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
