"""Speech synthesis through command-line programs."""

import shutil

import numpy as np
import pytest

from dlm.tts import CommandTTS, Utterance, Voice

needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
needs_flite = pytest.mark.skipif(not shutil.which("flite"), reason="flite is not installed")


@pytest.mark.parametrize(
    "family", [pytest.param("espeak", marks=needs_espeak), pytest.param("flite", marks=needs_flite)]
)
def test_speaks_in_order_and_repeatably(family):
    tts = CommandTTS((family,))
    voice = tts.voices()[0]
    utterances = [Utterance("yes", voice), Utterance("this is a much longer sentence", voice)]
    waves, again = tts.synthesize(utterances), tts.synthesize(utterances)
    assert 0.2 < len(waves[0]) / 16000 < len(waves[1]) / 16000 < 5
    assert all(w.dtype == np.float32 and 0.01 < np.abs(w).max() <= 1 for w in waves)
    assert all(np.array_equal(a, b) for a, b in zip(waves, again, strict=True))


@needs_flite
def test_rate_and_pitch_take_effect():
    voice = Voice("flite", "rms")
    text = "the ship was in the harbour"
    slow, fast = CommandTTS().synthesize([Utterance(text, voice, rate=0.8), Utterance(text, voice, rate=1.25)])
    assert len(slow) > 1.3 * len(fast)


@needs_espeak
def test_what_cannot_be_said_is_none():
    tts = CommandTTS(("espeak",))
    waves = tts.synthesize([Utterance("", tts.voices()[0]), Utterance("hello", tts.voices()[0])])
    assert waves[0] is None and waves[1] is not None


def test_programs_that_are_missing_offer_no_voices(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    tts = CommandTTS()
    assert not tts.available() and tts.voices() == []


def test_unknown_family_is_refused():
    with pytest.raises(ValueError, match="unknown TTS family"):
        CommandTTS(("siri",))
