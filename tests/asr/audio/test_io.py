import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from asr.audio.errors import AudioError
from asr.audio.io import from_array, load, resample, save, stream

FORMATS = {"wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "opus": {"format": "OGG", "subtype": "OPUS"}}
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")


def encode(path, wave, rate=16_000, **kwargs):
    soundfile.write(path, wave, rate, **{**FORMATS.get(path.suffix[1:], {}), **kwargs})
    return path


def noisy_tone(seconds=3.0, rate=16_000):
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 300 * time) + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_decode_to_what_was_encoded(tmp_path, suffix):
    wave = noisy_tone()
    decoded = load(encode(tmp_path / f"a.{suffix}", wave))
    assert decoded.dtype == np.float32
    assert len(decoded) == len(wave)
    assert np.corrcoef(decoded, wave)[0, 1] > 0.98


def test_path_bytes_file_object_and_pipe_agree(tmp_path):
    path = encode(tmp_path / "a.flac", noisy_tone())
    expected = load(path)
    np.testing.assert_array_equal(load(path.read_bytes()), expected)
    np.testing.assert_array_equal(load(io.BytesIO(path.read_bytes())), expected)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as pipe:
        with os.fdopen(write_end, "wb") as sink:
            sink.write(path.read_bytes()[:60_000])
        with pytest.raises(AudioError):  # a cut FLAC, read from something that cannot seek
            load(pipe)


def test_stdin(tmp_path):
    path = encode(tmp_path / "a.wav", noisy_tone())
    code = "from asr.audio.io import load; print(len(load('-')))"
    with path.open("rb") as file:
        done = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, text=True)
    assert done.stdout.strip() == "48000", done.stderr


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 96_000])
def test_resampling_keeps_length_and_pitch(tmp_path, rate):
    path = encode(tmp_path / "a.wav", noisy_tone(1.0, rate), rate)
    wave = load(path)
    assert abs(len(wave) - 16_000) <= 2
    assert np.argmax(np.abs(np.fft.rfft(wave[:16_000]))) == pytest.approx(300, abs=1)


def test_stream_blocks_do_not_change_the_audio(tmp_path):
    """Decoders and resamplers carry state over block boundaries; soundfile's own blocks lose it for MP3."""
    wave = noisy_tone(20.0, 44_100)
    for suffix in ("mp3", "flac"):
        path = encode(tmp_path / f"a.{suffix}", wave, 44_100)
        whole, rate = soundfile.read(path, dtype="float32")
        blocks = list(stream(path))
        assert len(blocks) > 3
        np.testing.assert_allclose(np.concatenate(blocks), resample(whole, rate, 16_000), atol=1e-5)


def test_channels_are_averaged(tmp_path):
    wave = noisy_tone()
    path = encode(tmp_path / "a.wav", np.stack([wave, wave / 2], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(load(path), wave * 3 / 4, atol=1e-6)


def test_a_tenth_of_a_second_is_audio(tmp_path):
    assert len(load(encode(tmp_path / "a.wav", noisy_tone(0.1)))) == 1600


def test_wav_of_unknown_length_from_a_pipe(tmp_path):
    """Programs that write to a pipe cannot go back and fill in the sizes."""
    data = bytearray(encode(tmp_path / "a.wav", noisy_tone()).read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert len(load(bytes(data))) == 48_000


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_truncated_files_are_errors_not_shorter_audio(tmp_path, suffix, share):
    path = encode(tmp_path / f"a.{suffix}", noisy_tone())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(AudioError, match="truncated") as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_truncated_wav_names_both_lengths(tmp_path):
    path = encode(tmp_path / "a.wav", noisy_tone())
    path.write_bytes(path.read_bytes()[:48_044])
    with pytest.raises(AudioError, match="missing 1.50 to 3.00 s"):
        load(path)


@needs_ffmpeg
def test_mp3_whose_length_must_be_guessed_is_read_to_its_end(tmp_path):
    """libsndfile stops where the bit rate of the first frame makes it expect the end: 75 % would be lost."""
    wave = np.concatenate([noisy_tone(10.0), np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)])
    source = encode(tmp_path / "a.wav", wave)
    mp3 = tmp_path / "a.mp3"
    command = ["ffmpeg", "-v", "error", "-i", source, "-q:a", "4", "-write_xing", "0", mp3]
    subprocess.run(command, check=True)
    assert soundfile.info(mp3).frames < 0.8 * len(wave)
    assert len(load(mp3)) == pytest.approx(len(wave), abs=4000)


def test_mp3_whose_header_counts_itself_is_whole(tmp_path):
    """Some encoders count the frame that holds the Xing header."""
    data = bytearray(encode(tmp_path / "a.mp3", noisy_tone()).read_bytes())
    field = max(data.find(b"Xing"), data.find(b"Info")) + 8
    data[field : field + 4] = (int.from_bytes(data[field : field + 4], "big") + 1).to_bytes(4, "big")
    assert len(load(bytes(data))) == pytest.approx(48_000, abs=1152)


@needs_ffmpeg
def test_joined_mp3s_are_read_to_their_end(tmp_path):
    data = encode(tmp_path / "a.mp3", noisy_tone(60.0)).read_bytes()
    assert len(load(data * 2)) == pytest.approx(2 * 60 * 16_000, rel=0.01)


@needs_ffmpeg
@pytest.mark.parametrize("suffix", ["m4a", "webm", "wma"])
def test_other_formats_go_through_ffmpeg(tmp_path, suffix):
    wave = noisy_tone()
    source, target = encode(tmp_path / "a.wav", wave), tmp_path / f"a.{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, "-ar", "48000", target], check=True)
    assert len(load(target)) == pytest.approx(len(wave), abs=3000)
    np.testing.assert_array_equal(load(target.read_bytes()), load(target))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("not a recording at all\n" * 20), "cannot be decoded"),
        (lambda path: soundfile.write(path, np.zeros(0), 16_000), "zero length"),
        (lambda path: soundfile.write(path, np.array([0, np.nan, 0]), 16_000, subtype="FLOAT"), "NaN"),
        (lambda path: soundfile.write(path, np.array([0, np.inf, 0]), 16_000, subtype="FLOAT"), "infinite"),
        (lambda path: soundfile.write(path, np.zeros(100), 500), "sampling rate 500"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path, make, message):
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(AudioError, match=message) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = encode(tmp_path / "a.wav", noisy_tone())
    path.chmod(0)
    with pytest.raises(AudioError, match="no permission"):
        load(path)


def test_the_extension_raw_is_no_crash(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(1000))
    with pytest.raises(AudioError):
        load(path)


def test_integers_are_scaled_and_channels_mixed():
    expected = noisy_tone(0.5)
    as_int16 = (expected * 32_768).astype(np.int16)
    np.testing.assert_allclose(from_array(as_int16, 16_000), expected, atol=1e-4)
    np.testing.assert_allclose(from_array(np.stack([expected, 0 * expected]), 16_000), expected / 2, atol=1e-6)
    as_uint8 = np.clip(np.round(expected * 128 + 128), 0, 255).astype(np.uint8)
    np.testing.assert_allclose(from_array(as_uint8, 16_000), expected, atol=0.01)
    assert len(from_array(expected, 8_000)) == 16_000


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (np.zeros(0), 16_000, "no samples"),
        (np.array([0.0, np.nan]), 16_000, "NaN"),
        (np.zeros((100, 2)), 16_000, "transposed"),
        (np.zeros((1, 1, 100)), 16_000, "dimensions"),
        (np.zeros(100), None, "sampling_rate"),
        (np.zeros(100), 0, "sampling rate"),
    ],
)
def test_bad_arrays(array, rate, message):
    with pytest.raises(AudioError, match=message):
        from_array(array, rate)


def test_wrong_types():
    with pytest.raises(TypeError, match="no audio source"):
        load(3.5)
    with pytest.raises(TypeError, match="samples are"):
        from_array(["a", "b"], 16_000)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus"])
def test_save_then_load(tmp_path, suffix):
    wave = noisy_tone()
    save(tmp_path / "new" / f"a.{suffix}", wave)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"a.{suffix}"]
    assert np.corrcoef(load(tmp_path / "new" / f"a.{suffix}"), wave)[0, 1] > 0.98


def test_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(Exception):  # noqa: B017  whatever soundfile says of a shape it cannot write
        save(tmp_path / "a.wav", np.zeros((2, 2, 2)))
    assert not list(tmp_path.iterdir())
