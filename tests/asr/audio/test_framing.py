"""Streams without times, and files out of which bytes are gone: what can be known of the times of the rest."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from recordings import RATE, encoded, misplaced, scale  # noqa: E402

from asr.audio.io import load  # noqa: E402
from asr.audio.report import Report  # noqa: E402

SECONDS = 12


def damaged(data: bytes, spots: list[tuple[float, float]], kind: str) -> bytes:
    """Shares of a file replaced or removed; a spot is where it starts and how long it is."""
    rng = np.random.default_rng(3)
    for start, length in sorted(spots, reverse=True):
        first, count = int(start * len(data)), int(length * len(data))
        piece = {"zeros": bytes(count), "noise": rng.bytes(count), "hole": b""}[kind]
        data = data[:first] + piece + data[first + count :]
    return data


def heard(data: bytes) -> tuple[int, float, Report]:
    """Windows with a clear tone, the seconds by which the worst is misplaced, and what is said."""
    report = Report()
    windows, worst = misplaced(load(data, report=report))
    return windows, worst, report


@pytest.mark.parametrize("kind", ["zeros", "noise"])
@pytest.mark.parametrize("spots", [[(0.2, 0.08)], [(0.3, 0.15), (0.6, 0.03)], [(0.2, 0.03), (0.5, 0.03), (0.8, 0.03)]])
@pytest.mark.parametrize("suffix", ["mp3", "mp2", "aac", "ac3"])
def test_replaced_bytes_tell_how_much_is_missing(suffix, spots, kind):
    windows, worst, report = heard(damaged(encoded(scale(SECONDS), suffix), spots, kind))
    assert worst <= 0.3 and windows >= 30
    assert len(report.missing) >= len(spots)


def test_one_hole_of_an_mp3_is_known_by_its_count_of_frames():
    windows, worst, report = heard(damaged(encoded(scale(SECONDS), "mp3"), [(0.3, 0.15)], "hole"))
    assert worst <= 0.3 and windows >= 35
    assert report.remarks == [] and len(report.missing) == 1


@pytest.mark.parametrize("suffix", ["mp3", "mp2", "aac", "ac3"])
def test_several_holes_of_unknown_size_are_said_to_be(suffix):
    _, _, report = heard(damaged(encoded(scale(SECONDS), suffix), [(0.3, 0.15), (0.6, 0.03)], "hole"))
    assert len(report.missing) == 2 and "its format keeps no times" in report.remarks[0]


def test_two_recordings_that_two_holes_make_the_same():
    """Why nothing better can be had: no reader can be right about the middle of both.

    Frames of MPEG audio have no number. 64 kbit/s at 16 kHz without the reservoir of bits: 288 bytes, 36 ms.
    """
    data = encoded(np.zeros(10 * RATE, np.float32), "mp2")
    frame = len(data) // (len(data) // 576)
    frames = [data[i : i + frame] for i in range(0, len(data) - frame + 1, frame)]
    assert len(set(frames[5:-5])) == 1  # silence: what is lost is whole frames
    kept, short, long = frames[5:30], frames[5:20], frames[5:60]
    one = kept, short, kept, long, kept
    other = kept, long, kept, short, kept
    remains = [b"".join(part for piece in recording[::2] for part in piece) for recording in (one, other)]
    assert remains[0] == remains[1]
    assert sum(map(len, one[:2])) != sum(map(len, other[:2]))


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}], ids=["index last", "index first"])
@pytest.mark.parametrize("spot", [(0.3, 0.08), (0.7, 0.003), (0.1, 0.3)])
def test_a_hole_in_an_mp4_costs_what_was_in_it(options, spot):
    windows, worst, report = heard(damaged(encoded(scale(SECONDS), "m4a", **options), [spot], "hole"))
    assert worst <= 0.3 and windows >= (1 - spot[1]) * 4 * SECONDS - 4
    assert len(report.missing) == 1
    assert report.missing[0].end - report.missing[0].start == pytest.approx(spot[1] * SECONDS, abs=0.3)


@pytest.mark.parametrize("spots", [[(0.3, 0.08)], [(0.1, 0.3)], [(0.3, 0.01), (0.7, 0.02)]])
def test_a_hole_in_fragments_of_an_mp4(spots):
    options = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "1000000"}
    windows, worst, report = heard(damaged(encoded(scale(SECONDS), "m4a", **options), spots, "hole"))
    assert worst <= 0.3 and windows >= 28
    assert report.missing and report.missing[-1].end is not None


def test_the_end_of_a_cut_fragmented_mp4_is_unknown():
    data = encoded(scale(SECONDS), "m4a", movflags="frag_keyframe+empty_moov", frag_duration="1000000")
    assert heard(data)[2].missing == []
    assert heard(data[: int(0.8 * len(data))])[2].missing[-1].end is None


@pytest.mark.parametrize("packets", [50, 100])
def test_whole_packets_of_a_transport_stream_are_missed(packets):
    data = encoded(scale(SECONDS), "ts")
    windows, worst, report = heard(data[: 188 * 200] + data[188 * (200 + packets) :])
    assert report.missing and worst <= 0.3


@pytest.mark.parametrize("kind", ["zeros", "hole"])
@pytest.mark.parametrize("spots", [[(0.5, 0.03), (0.82, 0.004)], [(0.2, 0.08), (0.72, 0.03)]])
def test_the_last_page_of_a_damaged_ogg_keeps_its_time(spots, kind):
    windows, worst, report = heard(damaged(encoded(scale(SECONDS), "ogg"), spots, kind))
    assert worst <= 0.3 and windows >= 20 and report.missing


def test_a_first_page_with_a_damaged_header():
    data = bytearray(encoded(scale(SECONDS), "ogg"))
    first = next(i for i in range(len(data)) if data[i : i + 4] == b"OggS" and any(data[i + 6 : i + 14]))
    data[first + 9 : first + 4105] = np.random.default_rng(0).bytes(4096)
    windows, worst, report = heard(bytes(data))
    assert worst <= 0.3 and report.missing[0].start == 0


def test_a_flac_whose_start_is_damaged():
    data = encoded(scale(SECONDS), "flac")
    start = len(data) // 60
    windows, worst, report = heard(data[:start] + bytes(len(data) // 8) + data[start + len(data) // 8 :])
    assert report.missing[0].start < 0.5 and report.missing[0].end == pytest.approx(1.4, abs=0.3)
    assert len(report.missing) == 1 and worst <= 0.3 and windows >= 36
