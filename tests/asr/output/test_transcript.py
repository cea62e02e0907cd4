import json

import pytest

from asr.output.transcript import Segment, Transcript, Word, fitted


def words(text, start=0.0):
    return [Word(w, start + i, start + i + 0.5, 0.9) for i, w in enumerate(text.split())]


def segment(text, start=0.0):
    spoken = words(text, start)
    return Segment(start, start + len(spoken), text, spoken)


def test_transcript_joins_its_segments():
    transcript = Transcript([segment("one two"), segment("three", 5.0)], 8.0)
    assert transcript.text == "one two three"
    assert [word.start for word in transcript.words] == [0.0, 1.0, 5.0]


def test_as_dict_is_json_with_milliseconds():
    transcript = Transcript([Segment(1 / 3, 2 / 3, "hi", [Word("hi", 1 / 3, 2 / 3, 2 / 3)])], 1.0)
    data = json.loads(json.dumps(transcript.as_dict()))
    assert data["text"] == "hi"
    (segment,) = data["segments"]
    ours = {"text": "hi", "start": 0.333, "end": 0.667, "confidence": 0.667}
    assert segment["words"] == [{**ours, "word": " hi", "probability": 0.667}]
    whisper = {"id", "seek", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"}
    assert whisper < set(segment) and segment["seek"] == 33 and segment["avg_logprob"] == -0.405


@pytest.mark.parametrize(
    ("corrected", "times"),
    [
        ("a b c d", [(0, 0.5), (1, 1.5), (2, 2.5), (3, 3.5)]),
        ("a x c d", [(0, 0.5), (1, 1.5), (2, 2.5), (3, 3.5)]),
        ("a c d", [(0, 0.5), (2, 2.5), (3, 3.5)]),
        ("a x y d", [(0, 0.5), (1, 1.75), (1.75, 2.5), (3, 3.5)]),
        ("a b new c d", [(0, 0.5), (1, 1.5), (1.5, 2), (2, 2.5), (3, 3.5)]),
        ("A. B, c d?", [(0, 0.5), (1, 1.5), (2, 2.5), (3, 3.5)]),
        ("a b c d end", [(0, 0.5), (1, 1.5), (2, 2.5), (3, 3.5), (3.5, 4)]),
        ("", []),
    ],
)
def test_corrected_words_take_the_times_of_those_they_replace(corrected, times):
    new = segment("a b c d").with_text(corrected)
    assert new.text == corrected
    assert [word.text for word in new.words] == corrected.split()
    assert [(word.start, word.end) for word in new.words] == times


def test_correction_without_word_times():
    assert Segment(0, 1, "a").with_text("b").words == []


@pytest.mark.parametrize(
    "times",
    [
        [(0.1, 0.4), (0.5, 0.9)],  # as it should be
        [(0.1, 0.4), (0.9, 1.12)],  # on after the sound
        [(0.1, 0.6), (0.5, 0.9)],  # into the next word
        [(0.2, 0.2), (0.2, 0.2), (0.2, 0.2)],  # all at once
        [(0.99, 1.0), (1.0, 1.0), (1.0, 1.3)],  # crowded at the end
        [(0.5, 0.6), (0.3, 0.4)],  # out of order
        [(i / 100, i / 100) for i in range(100)],  # more words than there is time for
        [],
    ],
)
def test_words_are_fitted_into_their_segment(times):
    given = [Word(str(i), 5 + start, 5 + end, 0.5) for i, (start, end) in enumerate(times)]
    found = fitted(given, 5.0, 6.0)
    assert [word.text for word in found] == [word.text for word in given]
    edges = [time for word in found for time in (word.start, word.end)]
    assert edges == sorted(edges) and all(5.0 <= time <= 6.0 + 1e-9 for time in edges)
    assert all(word.end > word.start for word in found)
    if times == [(0.1, 0.4), (0.5, 0.9)]:
        assert found == given
