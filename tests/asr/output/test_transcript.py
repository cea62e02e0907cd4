import json

import pytest

from asr.output.transcript import Segment, Transcript, Word


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
    assert data["segments"][0]["words"] == [{"text": "hi", "start": 0.333, "end": 0.667, "confidence": 0.667}]


@pytest.mark.parametrize(
    ("corrected", "times"),
    [
        ("a b c d", [(0, 0.5), (1, 1.5), (2, 2.5), (3, 3.5)]),
        ("a x c d", [(0, 0.5), (1, 1.5), (2, 2.5), (3, 3.5)]),
        ("a c d", [(0, 0.5), (2, 2.5), (3, 3.5)]),
        ("a x y d", [(0, 0.5), (1, 1.75), (1.75, 2.5), (3, 3.5)]),
        ("a b new c d", [(0, 0.5), (1, 1.5), (1.5, 2), (2, 2.5), (3, 3.5)]),
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
