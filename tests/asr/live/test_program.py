import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from asr.live.delays import Delays
from asr.live.sources import paced, raw_blocks
from asr.live.stream import LiveEvent
from asr.output.transcript import Segment, Word
from asr.transcriber import Transcriber

SAMPLE = "asr/sample.flac"


def test_raw_samples_of_any_kind_become_the_same_sound():
    wave = (np.sin(np.arange(48_000) * 0.05) * 0.5).astype(np.float32)
    stereo = np.stack([wave, wave], 1)
    as_ints = io.BytesIO((stereo * 32767).astype("<i2").tobytes())
    as_floats = io.BytesIO(stereo.astype("<f4").tobytes())
    ints = np.concatenate(list(raw_blocks(as_ints, 16_000, 2)))
    floats = np.concatenate(list(raw_blocks(as_floats, 16_000, 2, "f32le")))
    assert len(ints) == len(floats) == 48_000
    assert np.abs(ints - wave).max() < 1e-3 and np.abs(floats - wave).max() < 1e-6


def test_samples_split_anywhere_lose_nothing():
    class Dribble(io.BytesIO):
        def read1(self, size):
            return super().read(7)

    wave = np.arange(-500, 500, dtype="<i2")
    got = np.concatenate(list(raw_blocks(Dribble(wave.tobytes()), 16_000, 1)))
    assert (np.round(got * 32768) == wave).all()


def test_paced_blocks_keep_time_and_overdue_ones_come_together():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    times, lengths = [], []
    for block in paced(iter([np.zeros(1600)] * 10), lambda: now[0], sleep):
        times.append(round(now[0], 2))
        lengths.append(len(block))
        if len(times) == 2:
            now[0] += 0.35  # a slow recognition
    assert times[:3] == [0.1, 0.2, 0.6] and lengths[:3] == [1600, 1600, 6400]
    assert sum(lengths) == 16_000


def test_delays_count_each_word_once():
    words = [Word("a", 0.1, 0.5, 1.0), Word("b", 0.6, 1.0, 1.0)]
    segment = Segment(0.0, 1.2, "a b", words, None)
    delays = Delays(start=0.0)
    delays.note([LiveEvent("partial", segment, 1, 1.0)], now=1.5)
    delays.note([LiveEvent("partial", segment, 1, 1.1)], now=1.7)
    delays.note([LiveEvent("final", Segment(0.0, 0.5, "a", words[:1], None), 1, 1.5)], now=2.0)  # cut before "b" ...
    delays.note([LiveEvent("partial", Segment(0.5, 1.2, "b", words[1:], None), 1, 1.5)], now=2.0)
    delays.note([LiveEvent("final", Segment(0.5, 1.2, "b", words[1:], None), 1, 1.6)], now=2.5)
    assert delays.seconds == [1.0, 1.0]
    assert delays.report() == "2 words, settled 1.00 s after their end (median), 1.00 s (95th percentile)"


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "asr.live", *arguments], capture_output=True, **options)


def test_raw_samples_are_written_as_they_are_finished():
    wave, rate = soundfile.read(SAMPLE, dtype="int16")
    result = run("-", "--rate", str(rate), "--json", "--delays", input=wave.tobytes())
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    final = " ".join(event["text"] for event in events if event["kind"] == "final")
    assert final.split()[:3] == Transcriber.from_pretrained()(SAMPLE).text.split()[:3]
    assert b"settled" in result.stderr


def test_a_missing_recording_is_one_line():
    result = run("nowhere.wav")
    assert result.returncode == 1
    assert result.stderr.decode().count("\n") == 1 and b"nowhere.wav" in result.stderr


@pytest.mark.parametrize("arguments", [("-", "--rate", "0"), ("-", "--step", "-1"), ("-", "--model", "nowhere/at/all")])
def test_wrong_usage_is_said_before_anything_is_heard(arguments):
    result = run(*arguments, input=b"")
    assert result.returncode == 2 and b"Traceback" not in result.stderr
