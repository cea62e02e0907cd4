import io
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from enhance.denoise import main


@pytest.fixture
def recordings(hum, tmp_path):
    soundfile.write(tmp_path / "a.wav", hum(6000)[0], 16_000)
    soundfile.write(tmp_path / "b.flac", hum(9000, 44_100, 2).T, 44_100)
    (tmp_path / "bad.wav").write_bytes(b"RIFF but not really")
    return tmp_path


def pipe(monkeypatch, data: bytes) -> io.BytesIO:
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    monkeypatch.setattr(
        sys, "stdout", SimpleNamespace(buffer=sink, write=lambda text: None, flush=lambda: None)
    )
    return sink


def test_good_files_are_done_and_bad_ones_named(recordings, saved_model, capsys):
    out = recordings / "out"
    inputs = [str(recordings / name) for name in ("a.wav", "bad.wav", "b.flac", "gone.wav")]
    assert main([*inputs, "-o", str(out), "--model", str(saved_model)]) == 1
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith(str(recordings))]
    assert printed.out == "" and len(lines) == 2 and "bad.wav" in lines[0] and "gone.wav" in lines[1]
    assert sorted(path.name for path in out.iterdir()) == ["a.wav", "b.flac"]
    for name in ("a.wav", "b.flac"):
        before, after = soundfile.info(recordings / name), soundfile.info(out / name)
        assert (before.samplerate, before.channels, before.frames) == (
            after.samplerate,
            after.channels,
            after.frames,
        )


def test_plot_is_written(recordings, saved_model):
    out = recordings / "out"
    assert main([str(recordings / "a.wav"), "-o", str(out), "--model", str(saved_model), "--plot"]) == 0
    assert (out / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_what_comes_through_a_pipe(recordings, saved_model, monkeypatch):
    pipe(monkeypatch, b"")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Once((recordings / "a.wav").read_bytes())))
    out = recordings / "out.wav"
    assert main(["-", "-o", str(out), "--model", str(saved_model), "--plot"]) == 0
    assert soundfile.info(out).frames == soundfile.info(recordings / "a.wav").frames
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


class Once(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_pipe_gives_what_a_file_gives(recordings, saved_model, monkeypatch):
    main([str(recordings / "a.wav"), "-o", str(recordings / "out"), "--model", str(saved_model)])
    sink = pipe(monkeypatch, (recordings / "a.wav").read_bytes())
    assert main(["-", "--model", str(saved_model)]) == 0
    assert sink.getvalue() == (recordings / "out" / "a.wav").read_bytes()


def test_raw_pipe_is_aligned_and_of_the_same_length(recordings, saved_model, monkeypatch):
    samples, _ = soundfile.read(recordings / "a.wav", dtype="int16")
    sink = pipe(monkeypatch, samples.tobytes())
    assert main(["-", "--raw", "--model", str(saved_model), "--attenuation_limit", "0"]) == 0
    np.testing.assert_allclose(np.frombuffer(sink.getvalue(), "<i2"), samples, atol=1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a.wav"], "-o OUT is needed"),
        (["a.wav", "-o", "."], "would be overwritten"),
        (["a.wav", "b.flac", "-o", "one.wav"], "names one file"),
        (["a.wav", "-o", "one.mp3"], "choose .wav or .flac"),
        (["a.wav", "-o", "out", "--raw"], "--raw"),
        (["a.wav", "-o", "out", "--attenuation_limit", "-1"], "0 or more"),
        (["-", "--plot"], "--plot needs"),
    ],
)
def test_wrong_usage(recordings, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(recordings)
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_unknown_model_is_one_line(recordings, monkeypatch, capsys):
    def offline(*arguments):
        raise OSError("no network in tests")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    assert main([str(recordings / "a.wav"), "-o", str(recordings / "out"), "--model", "no/such"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (recordings / "out").exists()


@pytest.mark.parametrize("program", ["enhance.denoise", "enhance.export", "enhance.speed"])
def test_help_does_not_import_torch(program):
    code = f"import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_module('{program}', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_24"), ("a.wav", "PCM_32"), ("a.wav", "FLOAT"), ("a.flac", "PCM_24")]
)
def test_bit_depths_stay(tmp_path, hum, saved_model, name, subtype):
    """With nothing removed, what comes out is what went in, above full scale too."""
    wave = hum(6000)[0] * (3 / np.abs(hum(6000)[0]).max() if subtype == "FLOAT" else 1)
    soundfile.write(tmp_path / name, wave, 16_000, subtype=subtype)
    out = tmp_path / "clean" / name
    assert main([str(tmp_path / name), "-o", str(out), "--model", str(saved_model), "--attenuation_limit", "0"]) == 0
    assert soundfile.info(out).subtype == subtype
    np.testing.assert_allclose(soundfile.read(out)[0], soundfile.read(tmp_path / name)[0], atol=3e-6)


@pytest.mark.parametrize("kind", ["alac", "wavpack", "wavpack float"])
def test_lossless_formats_keep_32_bits(tmp_path, hum, saved_model, kind):
    import av

    wave, name, subtype = hum(6000)[0], "a.wv", "FLOAT" if "float" in kind else "PCM_32"
    if kind == "alac":
        name = "a.caf"
        soundfile.write(tmp_path / name, wave, 16_000, subtype="ALAC_32")
    else:
        with av.open(str(tmp_path / name), "w", format="wv") as output:
            stream = output.add_stream("wavpack", rate=16_000, layout="mono")
            stream.format = "fltp" if subtype == "FLOAT" else "s32p"
            samples = wave.astype(np.float32) if subtype == "FLOAT" else (wave * 2**31).astype(np.int32)
            frame = av.AudioFrame.from_ndarray(samples[None], format=stream.format.name, layout="mono")
            frame.sample_rate = 16_000
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    out = tmp_path / "clean.wav"
    assert main([str(tmp_path / name), "-o", str(out), "--model", str(saved_model), "--attenuation_limit", "0"]) == 0
    assert soundfile.info(out).subtype == subtype
    np.testing.assert_allclose(soundfile.read(out)[0], wave, atol=3e-6)


def test_a_format_that_cannot_keep_the_bits_says_so(tmp_path, hum, saved_model, capsys):
    soundfile.write(tmp_path / "a.wav", hum(6000)[0], 16_000, subtype="FLOAT")
    assert main([str(tmp_path / "a.wav"), "-o", str(tmp_path / "a.flac"), "--model", str(saved_model)]) == 0
    assert soundfile.info(tmp_path / "a.flac").subtype == "PCM_24"
    assert "has 24 bits a sample" in capsys.readouterr().err


def test_what_is_longer_than_a_wav_can_be_becomes_an_rf64(recordings, saved_model, monkeypatch, capsys):
    monkeypatch.setattr("enhance.writing.LONGEST_WAV", 8000)
    source, out = recordings / "a.wav", recordings / "out" / "a.wav"
    assert main([str(source), "-o", str(out.parent), "--model", str(saved_model)]) == 0
    assert out.read_bytes()[:4] == b"RF64"
    assert soundfile.info(out).frames == soundfile.info(source).frames
    assert main([str(out), "-o", str(recordings / "again"), "--model", str(saved_model)]) == 0
    with pytest.raises(OSError, match="longer than its source promised"):
        from enhance.writing import RecordingWriter

        with RecordingWriter(recordings / "long.wav", 16_000, 1) as writer:
            for _ in range(2):
                writer.write(np.zeros((8000, 1)))
    assert not (recordings / "long.wav").exists()


def test_rate_and_channels_of_every_format_stay(tmp_path, hum, saved_model):
    import av

    path = tmp_path / "talk.m4a"
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=44_100, layout="stereo")
        samples = (hum(44_100, 44_100, 2) * 20_000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="s16", layout="stereo")
        frame.sample_rate = 44_100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert main([str(path), "-o", str(tmp_path / "out"), "--model", str(saved_model)]) == 0
    info = soundfile.info(tmp_path / "out" / "talk.wav")
    assert (info.samplerate, info.channels) == (44_100, 2) and info.duration == pytest.approx(1, abs=0.1)


def test_a_damaged_recording_keeps_its_times(tmp_path, hum, saved_model, capsys):
    path = tmp_path / "cut.flac"
    soundfile.write(path, hum(64_000)[0], 16_000)
    data = path.read_bytes()
    path.write_bytes(data[:40_000] + bytes(9000) + data[49_000:])
    arguments = [str(path), "-o", str(tmp_path / "out"), "--model", str(saved_model)]
    assert main([*arguments, "--strict"]) == 1
    assert not (tmp_path / "out" / "cut.flac").exists()
    capsys.readouterr()
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: damaged or truncated: missing")
    assert soundfile.info(tmp_path / "out" / "cut.flac").frames == 64_000


def test_folders_patterns_and_single_files(recordings, saved_model, capsys):
    options = ("--model", str(saved_model))
    (recordings / "bad.wav").unlink()
    assert main([str(recordings), str(recordings / "*.flac"), "-o", str(recordings / "out"), *options]) == 0
    assert sorted(path.name for path in (recordings / "out").iterdir()) == ["a.wav", "b.flac"]
    assert main([str(recordings / "b.flac"), "-o", str(recordings / "one.wav"), *options]) == 0
    assert soundfile.info(recordings / "one.wav").channels == 2
    assert main([str(recordings / "none" / "*.wav"), "-o", str(recordings / "out"), *options]) == 1
    assert "no file matches" in capsys.readouterr().err


def test_two_inputs_of_one_name_are_both_done(recordings, saved_model, capsys):
    (recordings / "deep").mkdir()
    soundfile.write(recordings / "deep" / "a.wav", np.zeros(800), 8_000)
    inputs = [str(recordings / "a.wav"), str(recordings / "deep" / "a.wav")]
    assert main([*inputs, "-o", str(recordings / "out"), "--model", str(saved_model)]) == 0
    rates = {path.name: soundfile.info(path).samplerate for path in (recordings / "out").iterdir()}
    assert rates == {"a.wav": 16_000, "a.wav.wav": 8_000}
    assert "has the same name" in capsys.readouterr().err


@contextmanager
def small_disk():
    """Files may have 5000 bytes, beyond which the system refuses them as a full disk does; pytest's own log too."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_the_next_file_is_tried(recordings, saved_model, capsys):
    soundfile.write(recordings / "short.wav", np.zeros(800), 16_000)
    inputs = [str(recordings / name) for name in ("a.wav", "short.wav")]
    with small_disk():
        assert main([*inputs, "-o", str(recordings / "out"), "--model", str(saved_model)]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "cannot be written" in line]
    assert lines == [f"{inputs[0]}: {recordings / 'out' / 'a.wav'} cannot be written (File too large)"]
    assert [path.name for path in (recordings / "out").iterdir()] == ["short.wav"]


def test_a_target_that_cannot_be_written_is_one_line_a_file(recordings, saved_model, capsys):
    (recordings / "file").touch()
    inputs = [str(recordings / name) for name in ("a.wav", "b.flac")]
    assert main([*inputs, "-o", str(recordings / "file" / "out"), "--model", str(saved_model)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("cannot be written (Not a directory)" in line for line in lines)
