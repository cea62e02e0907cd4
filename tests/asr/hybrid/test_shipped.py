"""The model that ships: what it must never do, and what people see first."""

import numpy as np
import pytest

from asr.audio.segment import Segmenter
from asr.recogniser import DecodeOptions
from asr.transcriber import Transcriber

RATE, SECONDS = 16_000, 8


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber.from_pretrained(None, "cpu")


def sounds() -> dict[str, np.ndarray]:
    """Sounds that nobody speaks in, [samples] each."""
    rng, n = np.random.default_rng(0), RATE * SECONDS
    time = np.arange(n) / RATE
    brown = np.cumsum(rng.standard_normal(n))
    hum = sum(np.sin(2 * np.pi * 50 * k * time) / k for k in range(1, 6))
    decay = np.exp(-np.arange(RATE // 2) / 4000)
    notes = [220 * 2 ** (k / 12) for k in (0, 3, 7, 12, 10, 7, 3, 5)]
    music = np.concatenate([np.sin(2 * np.pi * f * np.arange(RATE // 2) / RATE) * decay for f in notes * 2])[:n]
    typing = np.zeros(n)
    for start in (np.cumsum(rng.uniform(0.08, 0.35, 30)) * RATE).astype(int):
        click = rng.standard_normal(400) * np.exp(-np.arange(400) / 60)
        typing[start : start + 400] += click[: max(0, n - start)]
    waves = {
        "silence": np.zeros(n), "white": 0.1 * rng.standard_normal(n), "brown": 0.5 * brown / np.abs(brown).max(),
        "hum": 0.2 * hum, "music": 0.4 * music, "typing": 0.3 * typing,
    }  # fmt: skip
    return {name: np.clip(wave, -1, 1).astype(np.float32) for name, wave in waves.items()}


@pytest.mark.parametrize("name", ["silence", "white", "brown", "hum", "music", "typing"])
def test_nothing_is_written_where_nobody_speaks(transcriber, name):
    wave = sounds()[name]
    assert transcriber(wave, RATE).text == ""
    everything = Transcriber(transcriber.recogniser, segmenter=Segmenter(onset=0.0))  # without the speech detector
    assert everything(wave, RATE).text == ""


def test_the_denoiser_mends_its_draft_and_writes_nothing_where_nobody_speaks(transcriber):
    denoising = Transcriber(transcriber.recogniser, options=DecodeOptions("dllm"))
    assert denoising("asr/sample.flac").text.startswith("The young men and women were determined to secure an edu")
    unsegmented = Segmenter(onset=0.0)  # without the speech detector
    everything = Transcriber(transcriber.recogniser, segmenter=unsegmented, options=DecodeOptions("dllm"))
    for name in ("silence", "white", "hum", "music"):
        assert everything(sounds()[name], RATE).text == ""


def test_the_sample_is_written_with_case_and_punctuation(transcriber):
    result = transcriber("asr/sample.flac")
    assert result.text.startswith("The young men and women were determined to secure an education at any cost")
    assert result.text[-1] in ".,"
    assert [word.text for word in result.words] == result.text.split()
    assert all(0 <= word.start < word.end <= result.duration for word in result.words)


def test_speech_that_breaks_off_does_not_repeat_itself(transcriber):
    from asr.audio import load

    text = transcriber(load("asr/sample.flac")[: 2 * RATE], RATE).text
    assert text.startswith("The young men and women were") and 6 <= len(text.split()) <= 10
