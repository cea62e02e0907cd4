"""Whatever is in a file, decoding it ends soon, in audio or in an AudioError."""

import time

import numpy as np
import pytest
import soundfile

from asr.audio.errors import AudioError
from asr.audio.io import load

FORMATS = {"wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "opus": {"format": "OGG", "subtype": "OPUS"}}
TRIALS = 24


def corruptions(data: bytes, rng: np.random.Generator):
    """Headers with changed bytes, truncations, bytes changed all over and a piece cut out."""
    for trial in range(TRIALS):
        broken = bytearray(data)
        if trial % 4 == 0:
            broken = broken[: rng.integers(1, len(data))]
        elif trial % 4 == 1:
            start = rng.integers(0, len(data) - 100)
            del broken[start : start + rng.integers(1, 100)]
        else:
            end = 64 if trial % 4 == 2 else len(data)
            for position in rng.integers(0, end, size=rng.integers(1, 9)):
                broken[position] = rng.integers(0, 256)
        yield bytes(broken)


@pytest.mark.parametrize("suffix", FORMATS)
def test_corrupt_files(tmp_path, suffix):
    rng = np.random.default_rng(0)
    wave = (0.2 * np.sin(np.arange(16_000) / 8) + 0.01 * rng.standard_normal(16_000)).astype(np.float32)
    path = tmp_path / f"whole.{suffix}"
    soundfile.write(path, wave, 16_000, **FORMATS[suffix])
    broken = tmp_path / f"broken.{suffix}"
    errors = 0
    for data in corruptions(path.read_bytes(), rng):
        broken.write_bytes(data)
        started = time.monotonic()
        try:
            decoded = load(broken)
        except AudioError as error:
            assert "\n" not in str(error)
            errors += 1
        else:
            assert decoded.ndim == 1 and len(decoded) and np.isfinite(decoded).all()
            assert len(decoded) <= 60 * 16_000
        assert time.monotonic() - started < 10
    assert 0 < errors


def test_damaged_mp3_frames_do_not_litter_the_terminal(tmp_path, capfd):
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 160_000), 16_000)
    data = bytearray(path.read_bytes())
    for position in range(2000, len(data), 997):
        data[position] ^= 0xFF
    load(bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("magic", [b"RIFF", b"fLaC", b"OggS", b"ID3\x04", b"\xff\xfb\x90\x64", b"FORM", b""])
def test_noise_behind_a_promising_start(magic):
    data = magic + np.random.default_rng(1).bytes(4000)
    try:
        assert np.isfinite(load(data)).all()
    except AudioError as error:
        assert "\n" not in str(error)
