"""Clips of a recording against the same clips cut out by hand."""

import math

import numpy as np
import pytest

from asr.audio.clips import clip_segments, parse_clips
from asr.audio.segment import Segmenter

RATE = 16_000


def test_times_are_read_as_whisper_reads_them():
    assert parse_clips("0") == [(0, math.inf)]
    assert parse_clips("1.5,3,10") == [(1.5, 3), (10, math.inf)]
    assert parse_clips("0,2,2,4") == [(0, 2), (2, 4)]
    for wrong in ("", "a", "3,1", "0,5,4,6", "-1,2", "nan", "inf", "1,1", "0,inf,3,4"):
        with pytest.raises(ValueError, match="one after the other"):
            parse_clips(wrong)


@pytest.mark.parametrize("size", [500, 16_000, 10**6])
def test_clips_are_heard_as_recordings_of_their_own(size):
    wave = np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32)
    segmenter = Segmenter(onset=0, max_seconds=2)  # all is speech, cut every so often
    blocks = [wave[i : i + size] for i in range(0, len(wave), size)]
    read = []
    clips = [(0.5, 3.0), (3.0, 4.25), (7.0, math.inf)]
    found = list(clip_segments(segmenter, (read.append(len(b)) or b for b in blocks), clips))
    expected = []
    for start, end in clips:
        part = wave[round(start * RATE) : None if math.isinf(end) else round(end * RATE)]
        expected += [(segment.start + start, segment.wave) for segment in segmenter([part])]
    assert sum(read) == len(wave)  # to its end, so that its duration is known
    assert [s.start for s in found] == pytest.approx([start for start, _ in expected])
    for segment, (_, samples) in zip(found, expected, strict=True):
        assert np.array_equal(segment.wave, samples)


def test_a_clip_behind_the_end_is_empty():
    assert list(clip_segments(Segmenter(onset=0), [np.ones(RATE, np.float32)], [(2.0, 3.0)])) == []
