import itertools
import tracemalloc
import warnings

import numpy as np
import pytest
import torch

from asr.audio.segment import FRAME, FRAME_SECONDS, Segmenter

RATE = 16_000


@pytest.fixture
def segmenter(energy_detector):
    return lambda **kwargs: Segmenter(detector=energy_detector, **kwargs)


def times(segments):
    return [(round(s.start, 1), round(s.end, 1)) for s in segments]


def test_speech_is_found_padded_and_timed(segmenter, make_tone, make_silence):
    tones = make_tone(300, 1.5), make_silence(3), make_tone(300, 1)
    wave = np.concatenate([make_silence(2), *tones, make_silence(2)])
    first, second = segmenter()([wave])
    assert first.start == pytest.approx(1.7, abs=0.05) and first.end == pytest.approx(3.8, abs=0.05)
    assert second.start == pytest.approx(6.2, abs=0.05) and second.end == pytest.approx(7.8, abs=0.05)
    at = round(first.start * RATE)
    np.testing.assert_array_equal(first.wave, wave[at : at + len(first.wave)])


def test_short_pauses_stay_inside_a_segment(segmenter, make_tone, make_silence):
    wave = np.concatenate([make_tone(300, 1), make_silence(0.6), make_tone(300, 1)])
    assert len(list(segmenter()([wave]))) == 1


@pytest.mark.parametrize("block", [1, 100, 511, 512, 70_000])
def test_blocks_do_not_matter(segmenter, make_tone, make_silence, block):
    wave = np.concatenate([make_silence(0.5), make_tone(300, 0.7), make_silence(1.5), make_tone(200, 0.51)])
    expected = list(segmenter()([wave]))
    blocks = (wave[i : i + block] for i in range(0, len(wave), block))
    found = list(segmenter()(blocks))
    assert times(found) == times(expected) and len(found) == 2
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.wave, b.wave)


def test_long_speech_is_cut_at_its_longest_pause(segmenter, make_tone, make_silence):
    parts, pauses = [], {2: 0.3, 5: 0.6, 8: 0.4}
    for i in range(20):
        parts += [make_tone(300, 2), make_silence(pauses.get(i, 0.1))]
    wave = np.concatenate(parts)
    first, *rest = segmenter(max_seconds=20)([wave])
    longest = 6 * 2 + 0.1 * 4 + 0.3 + 0.6 / 2  # the middle of the pause after the sixth tone
    assert first.end == pytest.approx(longest, abs=0.05)
    assert all(segment.duration <= 20 for segment in (first, *rest))
    joined = np.concatenate([segment.wave for segment in (first, *rest)])
    np.testing.assert_array_equal(joined[:-RATE], wave[: len(joined) - RATE])
    assert len(joined) > len(wave) - RATE


def test_speech_without_a_pause_is_cut_all_the_same(segmenter, make_tone):
    wave = make_tone(300, 50)
    segments = list(segmenter(max_seconds=15)([wave]))
    assert all(s.duration <= 15 for s in segments)
    np.testing.assert_array_equal(np.concatenate([s.wave for s in segments]), wave)


def test_without_a_pause_the_least_likely_frame_is_cut(make_tone):
    dip = 8.0  # seconds

    def detector():
        numbers = itertools.count()
        quiet = lambda: abs(next(numbers) * FRAME_SECONDS - dip) < 0.05  # noqa: E731
        return lambda frames: np.array([0.6 if quiet() else 0.9 for _ in frames])

    first, *_ = Segmenter(detector=detector, max_seconds=15)([make_tone(300, 20)])
    assert first.end == pytest.approx(dip, abs=0.1)


def test_clicks_are_no_speech(segmenter, make_tone, make_silence):
    wave = np.concatenate([make_silence(1), make_tone(300, 0.03), make_silence(3), make_tone(300, 0.02)])
    assert list(segmenter()([wave])) == []


def test_nothing_in_nothing_out(segmenter):
    assert list(segmenter()([])) == []
    assert list(segmenter()([np.zeros(0, np.float32)])) == []


def test_onset_zero_takes_everything(make_silence):
    segments = list(Segmenter(onset=0, detector=lambda: lambda frames: np.zeros(len(frames)))([make_silence(70)]))
    assert sum(s.duration for s in segments) == pytest.approx(70)


@pytest.mark.parametrize(
    "setting", [{"onset": 1.0}, {"onset": -0.1}, {"max_pause": 0.5}, {"max_seconds": 1.0}], ids=str
)
def test_impossible_settings(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Segmenter(**setting)


def test_memory_does_not_grow_with_the_recording(segmenter, make_tone, make_silence):
    def peak(minutes):
        piece = np.concatenate([make_tone(300, 9), make_silence(0.2), make_tone(300, 9), make_silence(1.8)])
        tracemalloc.start()
        for _ in segmenter()(piece.copy() for _ in range(minutes * 3)):
            pass
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    assert peak(8)[0] < 1.2 * peak(2)[0]


def test_silero_finds_speech_and_keeps_every_word_whole(speak, make_silence):
    speech = speak("The quick brown fox jumps over the lazy dog.")
    wave = np.concatenate([make_silence(3), speech, make_silence(4), speech, make_silence(2)])
    first, second = Segmenter()([wave])
    loud = np.flatnonzero(np.abs(speech) > 0.01) / RATE
    for segment, offset in ((first, 3), (second, 7 + len(speech) / RATE)):
        assert offset - 0.6 < segment.start < offset + loud[0]
        assert offset + loud[-1] < segment.end < offset + loud[-1] + 1


@pytest.mark.parametrize("word", ["a", "no", "up", "the"])
def test_silero_finds_single_words(speak, make_silence, word):
    wave = np.concatenate([make_silence(2), speak(word), make_silence(2)])
    assert len(list(Segmenter()([wave]))) == 1


def test_silero_streams_are_independent(speak):
    wave = speak("one two three four five six seven eight nine ten")
    alone = times(Segmenter()([wave]))
    segmenter = Segmenter()
    blocks = np.array_split(wave, 10)
    pairs = zip(segmenter(blocks), segmenter(blocks), strict=True)
    assert [times(segments) for segments in zip(*pairs, strict=True)] == [alone, alone]


@pytest.mark.parametrize("block", [1, 7, 1500])
def test_silero_in_blocks_is_the_script_of_its_package(speak, block):
    from asr.audio.silero import Silero

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import silero_vad

        threads = torch.get_num_threads()
        script = silero_vad.load_silero_vad()
        torch.set_num_threads(threads)
    wave = np.tile(np.concatenate([speak("one two three"), np.zeros(RATE, np.float32)]), 1 if block == 1 else 16)
    frames = wave[: len(wave) // FRAME * FRAME].reshape(-1, FRAME)
    with torch.inference_mode():
        expected = [float(script(torch.from_numpy(frame), RATE)) for frame in frames]
    detector = Silero()
    found = np.concatenate([detector(frames[i : i + block]) for i in range(0, len(frames), block)])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def music(seconds=20):
    """Plucked notes of changing pitch, five harmonics each."""
    rng = np.random.default_rng(0)
    time = np.arange(RATE // 2) / RATE
    notes = []
    for _ in range(2 * seconds):
        pitch = 220 * 2 ** (rng.integers(0, 24) / 12)
        harmonics = sum(np.sin(2 * np.pi * pitch * h * time) / h for h in range(1, 6))
        notes.append(0.2 * harmonics * np.exp(-4 * time))
    return np.concatenate(notes)


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(20 * RATE),
        0.1 * np.random.default_rng(0).standard_normal(20 * RATE),
        0.3 * np.sin(np.arange(20 * RATE) * 2 * np.pi * 440 / RATE),
        0.3 * np.sign(np.sin(np.arange(20 * RATE) * 2 * np.pi * 50 / RATE)),
        music(),
        music() + 0.02 * np.random.default_rng(0).standard_normal(20 * RATE),
    ],
    ids=["silence", "white noise", "sine", "hum", "music", "music in noise"],
)
def test_silero_takes_no_noise_for_speech(wave):
    assert list(Segmenter()([wave.astype(np.float32)])) == []


def test_loading_silero_leaves_the_thread_count_alone(make_silence):
    from asr.audio.silero import network

    network.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(Segmenter()([make_silence(0.1)]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
