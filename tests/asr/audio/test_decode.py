"""The timeline of the container, what is said of its faults, and the choice of tracks and channels."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))
from recordings import RATE, encoded, misplaced, muxed, scale  # noqa: E402

from asr.audio.errors import AudioError  # noqa: E402
from asr.audio.io import duration, load, stream  # noqa: E402
from asr.audio.report import Gap, Report, told  # noqa: E402
from asr.audio.timeline import Frame, Timeline  # noqa: E402


def tone(seconds: float, frequency: float = 440.0, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def starts(wave: np.ndarray) -> list[float]:
    """Seconds at which sound begins after half a second of none."""
    loud = np.flatnonzero(np.abs(wave) > 0.05) / RATE
    return [float(t) for t, before in zip(loud, [-1.0, *loud[:-1]], strict=True) if t - before > 0.5]


def wav(wave: np.ndarray, **options) -> bytearray:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="WAV", **options)
    return bytearray(buffer.getvalue())


@pytest.mark.parametrize("suffix", ["m4a", "mkv", "webm", "flv"])
def test_a_late_start_and_a_gap_keep_their_times(suffix):
    report = Report()
    delay = 0.0 if suffix == "flv" else 3.9  # FLV counts from its first packet
    wave = load(encoded(tone(2), suffix, times=(delay, delay + 12)), report=report)
    assert starts(wave) == pytest.approx([delay, delay + 12], abs=0.2)
    assert len(wave) / RATE == pytest.approx(delay + 14, abs=0.2)
    assert not report.missing and "no sound from" in report.remarks[0]


def test_a_stream_starts_where_its_clock_does():
    """Transport streams and parts of live streams start at any time."""
    wave = load(encoded(tone(2), "ts", times=(500.0,)))
    assert starts(wave) == pytest.approx([0], abs=0.1) and len(wave) / RATE == pytest.approx(2, abs=0.15)


def test_joined_transport_streams_go_on():
    data = encoded(tone(3), "ts")
    wave = load(data + data)
    assert len(wave) / RATE == pytest.approx(6, abs=0.3)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_all_links_of_a_chained_ogg(suffix):
    report = Report()
    wave = load(encoded(scale(4), suffix) + encoded(scale(3), suffix), report=report)
    assert len(wave) / RATE == pytest.approx(7, abs=0.05) and not report.missing
    assert misplaced(wave[4 * RATE :])[0] >= 11


@pytest.mark.parametrize("header", [True, False], ids=["header kept", "header gone"])
@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_a_damaged_start_of_an_ogg_keeps_the_times_of_the_rest(suffix, header):
    data = bytearray(encoded(scale(12), suffix))
    pages = [i for i in range(len(data)) if data[i : i + 4] == b"OggS"]
    first = next(i for i in pages if any(data[i + 6 : i + 14])) + (300 if header else 0)
    data[first : first + len(data) // 8] = bytes(len(data) // 8)
    report = Report()
    windows, worst = misplaced(load(bytes(data), report=report))
    assert report.missing[0].start == 0 and report.missing[0].end > 1
    assert windows > 20 and worst <= 0.3


@pytest.mark.parametrize("suffix", ["m4a", "opus"])
def test_many_channels(suffix):
    """Decoders hand them over in a plane each, which PyAV 18 cannot count."""
    wave = tone(2)
    data = muxed([(np.stack([wave] * 8, axis=1), (0.0,))], suffix)
    heard = load(data)
    assert len(heard) / RATE == pytest.approx(2, abs=0.1)
    assert np.sqrt(np.mean(heard[4000:-4000] ** 2)) > 0.1


def test_links_of_other_rates_and_channels():
    other = io.BytesIO()
    stereo = np.stack([tone(2, 500), tone(2, 500)], axis=1)
    soundfile.write(other, stereo, 44_100, format="OGG", subtype="VORBIS")
    wave = load(encoded(scale(4), "ogg") + other.getvalue())
    assert len(wave) / RATE == pytest.approx(4 + 2 * RATE / 44_100, abs=0.05)
    assert np.sqrt(np.mean(wave[-8000:] ** 2)) > 0.1


@pytest.mark.parametrize("extra", [2, 44, 512])
def test_wav_lengths_a_little_too_large(extra):
    data = wav(scale(3))
    data[40:44] = (6 * RATE + extra).to_bytes(4, "little")
    report = Report()
    assert len(load(bytes(data), report=report)) == 3 * RATE
    assert not report.missing and f"{extra} bytes more" in report.remarks[0]
    assert len(load(bytes(data))) == 3 * RATE


@pytest.mark.parametrize("length", [0, 1000])
def test_wav_lengths_too_small(length):
    data = wav(scale(3))
    data[40:44] = length.to_bytes(4, "little")
    report = Report()
    assert len(load(bytes(data), report=report)) == 3 * RATE
    assert not report.missing and "read to the end" in report.remarks[0]


def test_chunks_behind_the_samples_are_no_sound():
    title = b"LIST" + (26).to_bytes(4, "little") + b"INFOINAM" + (14).to_bytes(4, "little") + b"M\xfcller, S\xe4tze"
    report = Report()
    assert len(load(bytes(wav(scale(3))) + title + b"\0", report=report)) == 3 * RATE
    assert report == Report()
    empty = wav(np.zeros(0, np.float32))
    with pytest.raises(AudioError, match="zero length"):
        load(bytes(empty) + title + b"\0")


def test_a_truncated_wav_is_read_as_far_as_it_goes():
    report = Report()
    wave = load(bytes(wav(scale(4)))[: 44 + 3 * 2 * RATE], report=report)
    assert len(wave) == 3 * RATE
    assert report.missing == [Gap(3.0, pytest.approx(4.0))]
    assert told(report.missing) == "damaged or truncated: missing 3.00 to 4.00 s"


def test_a_tag_before_a_wav():
    tag = b"ID3\x04\0\0" + bytes([0, 0, 2, 0]) + bytes(256)
    assert len(load(tag + bytes(wav(scale(3))))) == 3 * RATE


def test_mp3_inside_wav():
    import av

    mp3, riff = io.BytesIO(encoded(scale(4), "mp3")), io.BytesIO()
    with av.open(mp3) as source, av.open(riff, "w", format="wav") as target:
        copied = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    windows, worst = misplaced(load(riff.getvalue()))
    assert windows >= 14 and worst <= 0.15


def test_joined_mp3s_with_tags_between_them_are_whole():
    data = encoded(scale(4), "mp3")
    art = b"ID3\x04\0\0" + bytes([0, 1, 0, 0]) + bytes(1 << 14)
    report = Report()
    wave = load(data + b"TAG" + bytes(125) + art + data + b"APETAGEX" + bytes(200), report=report)
    assert len(wave) / RATE == pytest.approx(8, abs=0.2) and not report.missing


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_variable_bit_rates_keep_their_times(share):
    """The Xing header counts frames, so what is missing is known although bytes are no measure of time."""
    rng = np.random.default_rng(0)
    wave = scale(12) + 0.1 * rng.standard_normal(12 * RATE).astype(np.float32) * (np.arange(12 * RATE) > 6 * RATE)
    data = encoded(wave, "mp3")
    start = int(share * len(data))
    report = Report()
    heard = load(data[:start] + data[start + len(data) // 12 :], report=report)
    assert report.missing and misplaced(heard)[1] <= 0.3


def test_channels_that_cancel_each_other():
    wave = scale(3)
    report = Report()
    heard = load(bytes(wav(np.stack([wave, -0.9 * wave], axis=1))), report=report)
    np.testing.assert_allclose(heard, wave, atol=1e-4)
    assert "cancel" in report.remarks[0] and len(report.remarks) == 1


def test_one_channel():
    data = bytes(wav(np.stack([tone(2), tone(2, 880)], axis=1)))
    np.testing.assert_allclose(load(data, channel=2), tone(2, 880), atol=1e-4)
    with pytest.raises(AudioError, match="2 channels, so there is no channel 3"):
        load(data, channel=3)


def test_tracks_are_named_and_chosen():
    data = muxed([(tone(2), (0.0,)), (tone(2, 880), (0.0,))], "mkv")

    def frequency(wave):
        return np.abs(np.fft.rfft(wave)).argmax() * RATE / len(wave)

    report = Report()
    first = frequency(load(data, report=report))
    assert first == pytest.approx(440, abs=5)
    assert report.remarks[0].startswith("has 2 audio tracks: 1 (") and "track 1 is taken" in report.remarks[0]
    report = Report()
    assert frequency(load(data, report=report, track=2)) == pytest.approx(880, abs=5)
    assert not report.remarks
    with pytest.raises(AudioError, match="has 2 audio tracks, so there is no track 3"):
        load(data, track=3)


def test_nothing_that_a_playlist_names_is_opened(tmp_path):
    (tmp_path / "secret.ts").write_bytes(encoded(tone(2), "ts"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    (tmp_path / "list.ffconcat").write_text(f"ffconcat version 1.0\nfile {tmp_path}/secret.ts\n")
    for name in ("list.m3u8", "list.ffconcat"):
        with pytest.raises(AudioError):
            load(tmp_path / name)


def test_formats_need_no_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert len(load(encoded(tone(2), "m4a"))) / RATE == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x20ftypM4A " + bytes(2000), r"its index \(moov\) is missing"),
        (np.random.default_rng(0).bytes(4000), "raw samples need a header"),
        (encoded(scale(2), "flac")[:60], "truncated"),
    ],
    ids=["no index", "no header", "cut"],
)
def test_refusals_say_what_to_do(data, message):
    with pytest.raises(AudioError, match=message) as error:
        load(data)
    assert "\n" not in str(error.value)


def test_a_film_without_sound():
    import av

    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as output:
        pictures = output.add_stream("mpeg4", rate=5)
        pictures.width = pictures.height = 64
        for _ in range(5):
            output.mux(pictures.encode(av.VideoFrame(64, 64, "yuv420p")))
        output.mux(pictures.encode(None))
    with pytest.raises(AudioError, match="holds no sound .only video"):
        load(film.getvalue())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_pipe_with_a_name_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert duration(path) is None  # would wait for a writer, and eat what it writes
    writer = threading.Thread(target=path.write_bytes, args=(encoded(scale(3), "m4a"),))
    writer.start()
    assert len(load(path)) / RATE == pytest.approx(3, abs=0.1)
    writer.join()


def test_standard_input_under_its_file_name():
    code = "from asr.audio.io import duration, load; duration('/dev/stdin'); print(len(load('/dev/stdin')))"
    done = subprocess.run([sys.executable, "-c", code], input=bytes(wav(scale(3))), capture_output=True)
    assert done.stdout.strip() == b"48000", done.stderr


def test_a_full_temporary_folder_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(AudioError, match="cannot be copied to a temporary file"):
        load(pipe)


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"n" * 251 + b".wav"])
def test_any_name_that_the_file_system_has(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    try:
        Path(os.fsdecode(path)).write_bytes(wav(scale(2))[:40_000])
    except OSError:
        pytest.skip("the file system has no such name")
    assert duration(os.fsdecode(path)) > 1 and len(load(os.fsdecode(path), report=Report())) > RATE
    with pytest.raises(AudioError) as error:
        load(os.fsdecode(path))
    assert str(error.value).startswith(os.fsdecode(path))


def test_memory_does_not_grow_with_the_recording(tmp_path):
    """A long gap is given out in blocks too."""
    data = encoded(tone(2), "mkv", times=(0.0, 500.0))
    assert max(map(len, stream(io.BytesIO(data), report=Report()))) < 20 * RATE


def test_sigterm_leaves_no_temporary_file(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from asr.audio.io import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as path:\n"
        "    path.touch(); print('there', flush=True); time.sleep(60)"
    )
    target = tmp_path / "out.wav"
    process = subprocess.Popen([sys.executable, "-c", code, target], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"there\n" and len(list(tmp_path.iterdir())) == 1
    process.terminate()
    assert process.wait(timeout=60) == 128 + 15
    assert list(tmp_path.iterdir()) == []


def placed(frames: list[Frame]) -> tuple[np.ndarray, list]:
    gaps: list = []
    timeline = Timeline(100, 1, lambda *gap: gaps.append(gap))
    timeline.start_part(0.0, None)
    pieces = [piece for frame in frames for piece in timeline.place(frame)]
    pieces += timeline.finish_part()
    return np.concatenate(pieces)[:, 0], gaps


def frames_at(*times: float | None) -> list[Frame]:
    """Tenths of a second, numbered from 1."""
    return [Frame(np.full((10, 1), i + 1, np.float32), time) for i, time in enumerate(times)]


def test_one_false_time_moves_nothing():
    times = [i / 10 for i in range(30)]
    whole, _ = placed(frames_at(*times))
    for false in (500.0, -40.0):
        wave, gaps = placed(frames_at(*times[:9], false, *times[10:]))
        np.testing.assert_array_equal(wave, whole)
        assert gaps == []


def test_a_late_start_is_believed_although_frames_without_times_overlap():
    wave, gaps = placed(frames_at(1.5, None, None, *[1.6 + i / 10 for i in range(20)]))
    assert gaps[0] == (0, 1.5, False) and not wave[:150].any() and wave[150] == 1


def test_a_clock_that_is_set_back_goes_on():
    wave, gaps = placed(frames_at(*[i / 10 for i in range(30)], *[i / 10 for i in range(30)]))
    assert len(wave) == 600 and gaps == []


def test_a_gap_is_filled_and_frames_without_times_follow():
    wave, gaps = placed(frames_at(0.0, None, 4.0, None, *[4.2 + i / 10 for i in range(12)]))
    assert gaps == [(0.2, pytest.approx(4.0), False)]
    assert not wave[20:400].any() and wave[400] == 3 and len(wave) == 540
