"""Live text with a recogniser whose words are known: each 0.5 s of sound is a word, named by its pitch."""

from dataclasses import replace

import numpy as np
import pytest

from asr.audio.segment import Segmenter
from asr.live import LiveTranscriber
from asr.live.stream import _beyond
from asr.output.transcript import Segment, Word

RATE, WORD = 16_000, 0.5
NAMES = {200: "two", 300: "three", 400: "four", 500: "five"}


def pitches(segment):
    """(pitch, start, end) of the tones in a segment, in the grid of the words."""
    first, samples = round(segment.start * RATE), int(WORD * RATE)
    for at in range(first // samples * samples, first + len(segment.wave), samples):
        piece = segment.wave[max(0, at - first) : at - first + samples]
        if len(piece) > 2_000 and np.abs(piece).max() > 0.1:
            crossings = np.count_nonzero(np.diff(np.signbit(piece)))
            start = max(at, first) / RATE
            yield 100 * round(crossings / (2 * len(piece) / RATE) / 100), start, start + len(piece) / RATE


class Heard:
    """A recogniser that mishears a word unless 0.3 s of it are there."""

    def __init__(self):
        self.batches = []

    def __call__(self, segments):
        self.batches.append([round(segment.duration, 2) for segment in segments])
        return [self.one(segment) for segment in segments]

    def one(self, segment):
        words = []
        for pitch, start, end in pitches(segment):
            words.append(Word(NAMES.get(pitch, "?") if end - start > 0.3 else "uh", start, end, 1.0))
        return Segment(segment.start, segment.end, " ".join(w.text for w in words), words)


@pytest.fixture
def sound(make_tone, make_silence):
    def build(*parts):
        return np.concatenate([make_tone(p, WORD) if p else make_silence(WORD) for p in parts])

    return build


@pytest.fixture
def live(energy_detector):
    heard = Heard()
    segmenter = Segmenter(max_seconds=5, padding=0, max_pause=0.4, detector=energy_detector)
    return LiveTranscriber(heard, segmenter, step=0.3), heard


def run(live, wave, block):
    state, events = live.start(), []
    for at in range(0, len(wave), block):
        events += live.push(state, wave[at : at + block])
    return events + live.finish(state)


@pytest.mark.parametrize("block", [160, 1_600, 4_801, 100_000])
def test_finals_do_not_depend_on_the_blocks(live, sound, block):
    wave = sound(200, 300, 400, 0, 0, 500, 200, 0, 0)
    finals = [event for event in run(live[0], wave, block) if event.kind == "final"]
    assert [event.segment.text for event in finals] == ["two three four", "five two"]
    assert [round(event.segment.start, 1) for event in finals] == [0.0, 2.5]
    assert [round(word.start, 1) for word in finals[1].segment.words] == [2.5, 3.0]
    assert all(event.settled == len(event.segment.words) for event in finals)


def test_settled_words_never_change_and_come_before_the_end(live, sound):
    events = run(live[0], sound(200, 300, 400, 500, 0, 0), 800)
    partials = [event for event in events if event.kind == "partial"]
    assert len(partials) > 3 and any("uh" in event.pending_text for event in partials)
    final = events[-1].settled_text
    for event in partials:
        assert final.startswith(event.settled_text) and "uh" not in event.settled_text
    assert any(event.settled == 2 and event.heard < 2 for event in partials)  # while the third is being said


def test_words_agree_whatever_their_case_and_punctuation(live, sound):
    transcriber, heard = live
    one, spellings = heard.one, iter(["Two.", "two", "two,", "Two", "two."] * 9)

    def respelt(segment):
        found = one(segment)
        words = [Word(next(spellings) if w.text == "two" else w.text, w.start, w.end, 1.0) for w in found.words]
        return Segment(found.start, found.end, " ".join(w.text for w in words), words)

    heard.one = respelt
    first = next(event for event in run(transcriber, sound(200, 300, 300, 0), 800) if event.settled)
    assert first.kind == "partial" and first.settled_text.casefold().strip(".,") == "two"


def test_one_recognition_for_a_block_that_is_late(live, sound):
    transcriber, heard = live
    state = transcriber.start()
    transcriber.push(state, sound(200, 300, 400, 500))
    assert heard.batches == [[pytest.approx(2, abs=0.04)]]


def test_speech_without_pauses_is_cut_and_no_word_is_lost_or_doubled(live, sound):
    parts = [200, 300, 400, 500] * 5
    finals = [event for event in run(live[0], sound(*parts), 1_600) if event.kind == "final"]
    assert len(finals) >= 2
    said = " ".join(event.segment.text for event in finals).split()
    assert [word for word in said if word in NAMES.values()].count("two") in (5, 6)  # a cut may split one word
    assert 20 <= len(said) <= 20 + len(finals)


def test_a_settled_sentence_is_not_heard_again(sound, energy_detector):
    heard = Heard()
    one = heard.one

    def with_sentences(segment):
        found = one(segment)
        words = [replace(w, text="five.") if w.text == "five" else w for w in found.words]
        return replace(found, text=" ".join(w.text for w in words), words=words)

    heard.one = with_sentences
    segmenter = Segmenter(max_seconds=30, padding=0, max_pause=0.4, detector=energy_detector)
    parts = [200, 300, 400, 500] * 10
    *_, final = run(LiveTranscriber(heard, segmenter, step=0.3), sound(*parts, 0), 1_600)
    assert final.segment.text == "two three four five. " * 9 + "two three four five."
    assert final.segment.start == 0 and round(final.segment.words[-1].start, 1) == 19.5
    assert max(length for batch in heard.batches for length in batch) < 8


@pytest.mark.parametrize(
    ("settled", "heard", "shift", "new"),
    [
        ("wipe the dry", "wipe the dry and", 0.4, "and"),  # heard later than before, the last word would come twice
        ("wipe the dry", "wipe the dry and", -0.4, "and"),  # earlier: the new word would be lost
        ("it is very", "it is very very good", 0.0, "very good"),
        ("it is very", "it is very very good", 0.4, "very good"),
        ("upon the bells", "upon the bells on horses", 1.4, "on horses"),
        ("one", "other words", 5.0, "other words"),
        ("he trust not to be", "he trusts not to be considered", 0.3, "considered"),
        ("how to order and do not care to count", "how to order and do not care to count the cost", -3.5, "the cost"),
        ("", "one", 0.0, "one"),
    ],
)
def test_what_is_new_is_told_by_words_and_times(settled, heard, shift, new):
    def words(text, shift=0.0):
        return [Word(t, 0.5 * i + shift, 0.5 * i + 0.5 + shift, 1.0) for i, t in enumerate(text.split())]

    assert " ".join(word.text for word in _beyond(words(settled), -1.0, words(heard, shift))) == new


def test_a_recognition_in_a_loop_brings_no_words_twice(live, sound):
    """What repeats for ever gets all the time there is: the times of the other words are worth nothing then."""
    transcriber, heard = live
    one = heard.one

    def looping(segment):
        found = one(segment)
        if round(segment.duration / 0.3) % 4 or len(found.words) < 2:
            return found
        squeezed = [replace(w, start=segment.start + i / 50, end=segment.start + (i + 1) / 50)
                    for i, w in enumerate(found.words[:-1])]  # fmt: skip
        return replace(found, words=[*squeezed, Word("lalala", squeezed[-1].end, segment.end, 0.1)])

    heard.one = looping
    *_, final = run(transcriber, sound(200, 300, 400, 500, 200, 400, 300, 500, 0, 0), 800)
    assert final.segment.text == "two three four five two four three five"


def test_silence_says_nothing(live, make_silence):
    transcriber, heard = live
    assert run(transcriber, make_silence(3), 1_600) == [] and heard.batches == []


def test_step_must_be_positive():
    with pytest.raises(ValueError, match="step is 0 s"):
        LiveTranscriber(Heard(), step=0)
