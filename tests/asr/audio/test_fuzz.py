"""Whatever happens to a file: what can be decoded keeps its time, and what is lost is reported or the file refused."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from recordings import FORMATS, RATE, encoded, misplaced, scale  # noqa: E402

from asr.audio.errors import AudioError  # noqa: E402
from asr.audio.io import load  # noqa: E402
from asr.audio.report import Report  # noqa: E402

SECONDS = 12
SUFFIXES = sorted({*FORMATS, "ogg"})
UNCHECKED = {"wav", "aiff", "caf"}  # plain samples: nobody can tell that some were replaced, or where some are missing
NO_TIMES = {"aac", "mp2", "ac3"}  # and without a length: what was cut out of the middle cannot be measured
INDEX_FIRST = ("m4a", "mp4", "3gp")  # an index that is cut off leaves nothing
HEADERS = 24


@pytest.fixture(scope="module")
def whole():
    """whole(suffix) -> a file of twelve seconds, each with a tone of its own."""
    made = {}

    def make(suffix: str) -> bytes:
        options = {"movflags": "faststart"} if suffix in INDEX_FIRST else {}
        return made.setdefault(suffix, made.get(suffix) or encoded(scale(SECONDS), suffix, **options))

    return make


def read(data: bytes) -> tuple[np.ndarray, Report] | None:
    """What is left of a file and what is said of it; None: it was refused in one line."""
    report = Report()
    try:
        return load(data, report=report), report
    except AudioError as error:
        assert "\n" not in str(error)
        return None


def check(result, times: bool = True) -> None:
    """What is lost is reported, and what is not lost is where it was."""
    if result is None:
        return
    wave, report = result
    windows, worst = misplaced(wave)
    assert np.isfinite(wave).all()
    assert worst <= 0.3 or not times
    if windows < 4 * SECONDS - 2:
        assert report.missing
    else:
        assert sum((gap.end or gap.start) - gap.start for gap in report.missing) < 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whole_files_are_whole(whole, suffix):
    wave, report = read(whole(suffix))
    windows, worst = misplaced(wave)
    assert report.missing == [] and report.remarks == []
    assert len(wave) / RATE == pytest.approx(SECONDS, abs=0.15)
    assert windows >= 4 * SECONDS - 2 and worst <= 0.15


@pytest.mark.parametrize("kind", ["zeros", "noise", "hole"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_in_the_middle(whole, suffix, kind):
    data, rng = whole(suffix), np.random.default_rng(1)
    start, length = int(0.4 * len(data)), len(data) // 12
    piece = {"zeros": bytes(length), "noise": rng.bytes(length), "hole": b""}[kind]
    result = read(data[:start] + piece + data[start + length :])
    if suffix in UNCHECKED and kind != "hole":
        assert result is not None
        return
    check(result, times=not (kind == "hole" and suffix in UNCHECKED | NO_TIMES))
    assert result is not None and result[1].missing


@pytest.mark.parametrize("share", [0.9, 0.5])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncation(whole, suffix, share):
    cut = whole(suffix)
    cut = cut[: int(share * len(cut)) - 100]  # not where a frame ends, which nobody could tell from a whole file
    result = read(cut)
    check(result)
    assert result is not None and result[1].missing
    with pytest.raises(AudioError, match="truncated"):
        load(cut)  # a file is whole or refused where nobody asked for less


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_headers(whole, suffix):
    data, rng = whole(suffix), np.random.default_rng(2)
    for _ in range(HEADERS):
        broken = bytearray(data)
        for position in rng.integers(0, 128, size=rng.integers(1, 6)):
            broken[position] = rng.integers(0, 256)
        result = read(bytes(broken))
        if result is None:
            continue
        wave, report = result
        assert np.isfinite(wave).all() and len(wave) < 600 * RATE
        windows, worst = misplaced(wave)
        # With another sampling rate or number of channels in the header, the tones are others too; and an edit list,
        # which MP4 has among its first bytes, may leave out what it likes.
        described_otherwise = windows == 0 or worst > 0.3 or suffix in INDEX_FIRST
        if not described_otherwise and windows < 4 * SECONDS - 4:
            assert report.missing or report.remarks


@pytest.mark.parametrize("magic", [b"RIFF", b"fLaC", b"OggS", b"ID3\x04", b"\xff\xfb\x90\x64", b"FORM", b""])
def test_noise_behind_a_promising_start(magic):
    data = magic + np.random.default_rng(1).bytes(4000)
    try:
        assert np.isfinite(load(data)).all()
    except AudioError as error:
        assert "\n" not in str(error)


def test_damaged_frames_do_not_litter_the_terminal(whole, capfd):
    data = bytearray(whole("mp3"))
    for position in range(2000, len(data), 997):
        data[position] ^= 0xFF
    read(bytes(data))
    assert capfd.readouterr() == ("", "")
