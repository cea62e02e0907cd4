import json
import re

import pytest

from asr.output.transcript import Segment, Transcript, Word
from asr.output.writers import WRITERS, LineLimits, cues


def spoken(text, start=0.0, step=0.5):
    words = [Word(w, start + i * step, start + (i + 1) * step, 0.9) for i, w in enumerate(text.split())]
    return Segment(start, words[-1].end, text, words)


@pytest.fixture
def transcript():
    return Transcript([spoken("the first & last"), spoken("then <more> words", 3661.0)], 3700.0)


def write(name, transcript, **limits):
    return WRITERS[name](transcript, LineLimits(**limits))


def test_txt_has_a_line_per_segment(transcript):
    assert write("txt", transcript) == "the first & last\nthen <more> words\n"


def test_srt(transcript):
    assert write("srt", transcript) == (
        "1\n00:00:00,000 --> 00:00:02,000\nthe first & last\n\n"
        "2\n01:01:01,000 --> 01:01:02,500\nthen <more> words\n\n"
    )


def test_vtt_escapes_markup(transcript):
    assert write("vtt", transcript) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nthe first &amp; last\n\n"
        "01:01:01.000 --> 01:01:02.500\nthen &lt;more&gt; words\n\n"
    )


def test_tsv_is_in_milliseconds(transcript):
    lines = write("tsv", transcript).splitlines()
    assert lines == ["start\tend\ttext", "0\t2000\tthe first & last", "3661000\t3662500\tthen <more> words"]


def test_json_round_trip(transcript):
    data = json.loads(write("json", transcript))
    assert data["text"] == transcript.text and data["duration"] == 3700.0
    word = data["segments"][1]["words"][0]
    assert word.items() >= {"text": "then", "start": 3661.0, "end": 3661.5, "confidence": 0.9}.items()


def test_clock_carries_when_it_rounds_up():
    assert "00:01:00,000 -->" in write("srt", Transcript([Segment(59.9996, 61, "x")], 70))


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_transcript_is_a_valid_file(name):
    text = write(name, Transcript([], 5.0))
    assert text == {"txt": "", "srt": "", "vtt": "WEBVTT\n\n", "tsv": "start\tend\ttext\n"}.get(name, text)
    if name == "json":
        assert json.loads(text)["segments"] == []


LONG = "it was a bright cold day in april and the clocks were striking thirteen extraordinarily"


def test_lines_keep_to_their_width_and_number():
    found = list(cues(Transcript([spoken(LONG)], 10), LineLimits(max_line_width=14, max_line_count=2)))
    assert " ".join(" ".join(cue.text.split("\n")) for cue in found) == LONG
    for cue in found:
        lines = cue.text.split("\n")
        assert len(lines) <= 2
        assert all(len(line) <= 14 or " " not in line for line in lines)
    assert any("\n" in cue.text for cue in found)
    assert all(a.end <= b.start for a, b in zip(found, found[1:], strict=False))


def test_words_per_line():
    found = list(cues(Transcript([spoken(LONG)], 10), LineLimits(max_words_per_line=4)))
    assert [len(cue.text.split()) for cue in found] == [4, 4, 4, 3]
    assert found[1].start == 2.0 and found[1].end == 4.0


def test_a_long_pause_starts_a_new_cue():
    segment = Segment(0, 20, "a b", [Word("a", 0, 1, 1.0), Word("b", 15, 16, 1.0)])
    found = list(cues(Transcript([segment], 20), LineLimits(max_line_width=40, max_line_count=2)))
    assert [(cue.start, cue.end) for cue in found] == [(0, 1), (15, 16)]


def test_limits_need_word_times():
    with pytest.raises(ValueError, match="word_timestamps"):
        write("srt", Transcript([Segment(0, 1, "x")], 1), max_line_width=10)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_line_width": 0},
        {"max_line_count": 2},
        {"max_line_width": 20, "max_words_per_line": 3},
    ],
    ids=str,
)
def test_limits_that_mean_nothing(limits):
    with pytest.raises(ValueError, match=re.escape(next(iter(limits)))):
        LineLimits(**limits)


def test_lrc_has_a_time_before_each_line(transcript):
    assert write("lrc", transcript) == "[00:00.00]the first & last\n[61:01.00]then <more> words\n"
