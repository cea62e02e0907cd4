"""The command line with a tiny random model: its text is noise, everything else is real."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from asr.console.inputs import expand_inputs
from asr.transcribe import main

RATE = 16_000


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two short recordings, one of them in a folder within the folder."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    (folder / "deep").mkdir()
    for name in ("a.wav", "deep/b.flac"):
        soundfile.write(folder / name, 0.1 * rng.standard_normal(RATE), RATE)
    (folder / "notes.txt").write_text("no audio")
    return folder


@pytest.fixture
def transcribe(tiny_ctc_model, capsys):
    """transcribe(*arguments) -> exit status, standard output, standard error; takes all audio for speech."""

    def run(*arguments):
        try:
            status = main(["--model", str(tiny_ctc_model), "--vad_onset", "0", *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def process(*arguments, **kwargs):
    command = [sys.executable, "-m", "asr.transcribe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, **kwargs)


def test_help_is_instant():
    started = time.monotonic()
    done = process("--help", text=True)
    assert done.returncode == 0 and "--word_timestamps" in done.stdout
    assert time.monotonic() - started < 2  # half a second on an idle machine
    code = "import sys, asr.transcribe as t; t.make_parser(); print('numpy' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert loaded.stdout.strip() == "False"


def test_process_good_and_bad_files(recordings, tiny_ctc_model, tmp_path):
    """One clear line per bad file on standard error, the rest is done, exit status 1."""
    good = [recordings / "a.wav", recordings / "deep" / "b.flac"]
    bad = {name: tmp_path / name for name in ("missing.wav", "empty.wav", "text.mp3", "nan.wav", "cut.flac")}
    bad["empty.wav"].touch()
    bad["text.mp3"].write_text("this is no audio\n" * 50)
    soundfile.write(bad["nan.wav"], np.full(RATE, np.nan), RATE, subtype="FLOAT")
    bad["cut.flac"].write_bytes(good[1].read_bytes()[:-500])
    inputs = [good[0], *bad.values(), good[1]]
    done = process("--model", tiny_ctc_model, "--vad_onset", "0", *inputs, text=True)
    assert done.returncode == 1
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [path for path, _ in lines] == [str(good[0]), str(bad["cut.flac"]), str(good[1])]
    assert all(text for _, text in lines)
    messages = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert [message.split(":")[0] for message in messages] == list(map(str, bad.values()))
    assert "Traceback" not in done.stderr


def test_process_stdin_and_interrupt(recordings, tiny_ctc_model):
    data = (recordings / "deep" / "b.flac").read_bytes()
    done = process("--model", tiny_ctc_model, "--vad_onset", "0", "-", input=data)
    assert done.returncode == 0 and done.stdout.strip()
    command = [sys.executable, "-m", "asr.transcribe", "--model", tiny_ctc_model, "-"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # A shell's background jobs ignore SIGINT and so would the child. Wait until it listens, past the imports.
    waiting = subprocess.Popen(command, **pipes, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    time.sleep(6)
    waiting.send_signal(signal.SIGINT)
    _, messages = waiting.communicate(timeout=120)
    assert waiting.returncode == 130
    assert b"Traceback" not in messages


def test_one_file_in_every_format(transcribe, recordings):
    status, text, _ = transcribe(recordings / "a.wav")
    assert status == 0 and text.strip() and "\t" not in text
    assert transcribe(recordings / "a.wav", "-f", "srt")[1].startswith("1\n00:00:00,000 --> 00:00:01,000\n")
    assert transcribe(recordings / "a.wav", "-f", "vtt")[1].startswith("WEBVTT\n\n")
    assert transcribe(recordings / "a.wav", "-f", "tsv")[1].startswith("start\tend\ttext\n0\t1000\t")
    segment = json.loads(transcribe(recordings / "a.wav", "-f", "json")[1])["segments"][0]
    assert segment["text"] == text.strip() and segment["words"] == []
    _, out, _ = transcribe(recordings / "a.wav", "-f", "json", "--word_timestamps")
    segment = json.loads(out)["segments"][0]
    assert " ".join(word["text"] for word in segment["words"]) == text.strip()


def test_folder_to_files(transcribe, recordings, tmp_path):
    out = tmp_path / "out"
    status, printed, _ = transcribe(recordings, "-o", out, "-f", "all")
    assert status == 0 and printed == ""
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == {f"{s}.{f}" for s in ("a", "deep/b") for f in ("txt", "srt", "vtt", "lrc", "tsv", "json")}
    assert (out / "deep" / "b.txt").read_text().strip()


def test_failed_files_leave_no_output(transcribe, recordings, tmp_path):
    cut = tmp_path / "cut.flac"
    cut.write_bytes((recordings / "deep" / "b.flac").read_bytes()[:-500])
    status, _, messages = transcribe(cut, recordings / "a.wav", "-o", tmp_path / "out", "--strict")
    assert status == 1 and "truncated" in messages
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]


def test_a_damaged_file_is_written_as_far_as_it_goes(transcribe, recordings, tmp_path):
    cut = tmp_path / "cut.flac"
    cut.write_bytes((recordings / "deep" / "b.flac").read_bytes()[:-500])
    status, printed, messages = transcribe(cut)
    assert status == 1 and printed.strip()
    assert messages.startswith(f"{cut}: damaged or truncated: missing ") and len(messages.splitlines()) == 1
    written = json.loads(transcribe(cut, "-f", "json")[1])
    assert written["missing"][0]["end"] == pytest.approx(1.0, abs=0.01)


def test_channels_and_remarks(transcribe, tmp_path):
    tone = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, -tone], axis=1), RATE)
    status, printed, messages = transcribe(tmp_path / "a.wav")
    assert status == 0 and printed.strip() and "cancel each other" in messages
    status, printed, messages = transcribe(tmp_path / "a.wav", "--channel", "2")
    assert status == 0 and printed.strip() and messages == ""
    assert "no channel 3" in transcribe(tmp_path / "a.wav", "--channel", "3")[2]
    assert "no track 2" in transcribe(tmp_path / "a.wav", "--audio_track", "2")[2]


def test_several_files_as_json_lines(transcribe, recordings):
    status, out, _ = transcribe(recordings, "-f", "json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [row["path"] for row in rows] == [str(recordings / "a.wav"), str(recordings / "deep" / "b.flac")]


def test_subtitle_limits(transcribe, recordings):
    _, out, _ = transcribe(recordings / "a.wav", "-f", "srt", "--max_words_per_line", "1")
    texts = out.strip().split("\n")[2::4]
    assert len(texts) > 1 and all(" " not in text for text in texts)


def test_verbose_shows_segments(transcribe, recordings, tmp_path):
    options = ("--verbose", "--threads", "1", "--decoder", "beam")
    status, out, messages = transcribe(recordings / "a.wav", *options)
    assert status == 0 and out.strip()
    assert "[00:00.000 --> 00:01.000]" in messages and "-->" not in out
    soundfile.write(tmp_path / "longer.wav", 0.1 * np.random.default_rng(0).standard_normal(3 * RATE), RATE)
    files = [recordings / "a.wav", tmp_path / "longer.wav"]
    _, _, messages = transcribe(*files, *options, "--batch_size", "2")
    shown = [line for line in messages.splitlines() if "-->" in line]
    assert ["a.wav" in line for line in shown] == [True, False]  # as they were given, not by length


def test_silence_is_no_error(tiny_ctc_model, tmp_path, capsys):
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    assert main(["--model", str(tiny_ctc_model), str(tmp_path / "silence.wav")]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "all", "a.wav"], "-o"),
        (["-f", "srt", "a.wav", "b.wav"], "-o"),
        (["--beam_size", "4", "--decoder", "greedy", "a.wav"], "no meaning"),
        (["--max_line_count", "2", "a.wav"], "max_line_width"),
        (["--batch_size", "0", "a.wav"], "at least 1"),
        (["--vad_onset", "1.5", "a.wav"], "onset"),
        (["--model", "./nowhere", "a.wav"], "./nowhere"),
        (["--device", "abacus", "a.wav"], "abacus"),
        (["--decoder", "ar", "--decoder_model", "./nowhere", "a.wav"], "./nowhere"),
        (["--decoder", "dllm", "a.wav"], "needs a denoiser: name its folder by --decoder_model"),
        (["--decoder", "dllm", "--denoising", "threshold=-1", "--", "a.wav"], "threshold is -1"),
        (["--decoder", "dllm", "--denoising", "max_passes=0", "--", "a.wav"], "max_passes is 0"),
        (["--decoder", "dllm", "--denoising", "commit=factor:x", "--", "a.wav"], "'x' is no number"),
        (["--decoder", "dllm", "--denoising", "pruning=some", "--", "a.wav"], "pruning is 'some'"),
        (["--correct_model", "x", "a.wav"], "--correct_model needs --correct"),
        (["--correct", "--correct_model", "./nowhere", "a.wav"], "./nowhere"),
        ([], "audio"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage(transcribe, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, messages = transcribe(*arguments)
    assert status == 2 and out == ""
    assert message in messages.splitlines()[-1]


def test_missing_helpers_are_named(transcribe, recordings, monkeypatch):
    monkeypatch.setitem(sys.modules, "enhance", None)
    for module in ("dlm", "dlm.loading"):
        monkeypatch.setitem(sys.modules, module, None)
    status, _, messages = transcribe(recordings / "a.wav", "--enhance", "adaptcrn")
    assert status == 2 and "--enhance adaptcrn: speech enhancement is not available" in messages
    status, _, messages = transcribe(recordings / "a.wav", "--correct", "--correct_model", "x")
    assert status == 2 and "--correct: correction is not available" in messages


def test_folder_that_cannot_be_made(transcribe, recordings, tmp_path):
    (tmp_path / "file").touch()
    status, _, messages = transcribe(recordings / "a.wav", "-o", tmp_path / "file" / "out")
    assert status == 2 and "cannot make this folder" in messages


def test_inputs_are_expanded(recordings, tmp_path):
    (tmp_path / "empty").mkdir()
    names = ("", "*.wav", "a.wav", "*.mp3")
    arguments = ["-", *(str(recordings / name) for name in names), str(tmp_path / "empty"), "missing.wav"]
    inputs, failures = expand_inputs(arguments)
    first, second = recordings / "a.wav", recordings / "deep" / "b.flac"
    assert list(inputs) == ["-", str(first), str(second), "missing.wav"]
    assert str(inputs[str(second)]) == "deep/b.flac" and str(inputs["-"]) == "stdin"
    assert len(failures) == 2 and "no file matches" in failures[0] and "no audio files" in failures[1]


def test_names_with_brackets_are_names_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "take[1].wav").touch()
    assert list(expand_inputs(["take[1].wav"])[0]) == ["take[1].wav"]


def test_existing_outputs_are_left_alone_on_request(transcribe, recordings, tmp_path):
    out = tmp_path / "out"
    assert transcribe(recordings / "a.wav", "-o", out)[0] == 0
    (out / "a.txt").write_text("mine")
    status, _, messages = transcribe(recordings, "-o", out, "--skip_existing")
    assert status == 0 and "1 of 2 recordings are done already" in messages
    assert (out / "a.txt").read_text() == "mine" and (out / "deep" / "b.txt").exists()
    assert transcribe(recordings, "--skip_existing")[0] == 2


def test_a_list_stands_for_its_lines(transcribe, recordings, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"# Monday\n{recordings / 'a.wav'}\n\n{recordings / 'nowhere.wav'}\n")
    status, printed, messages = transcribe(f"@{listed}")
    assert status == 1 and "a.wav" in printed and "nowhere.wav" in messages and "Monday" not in messages
    assert "cannot be read" in transcribe("@nowhere.txt")[2]


def test_subtitles_are_short_unless_told(transcribe, recordings):
    limited = transcribe(recordings / "a.wav", "-f", "srt")[1]
    assert all(len(line) <= 42 for line in limited.splitlines())
    assert transcribe(recordings / "a.wav", "-f", "srt", "--whole_segments", "--max_line_width", "9")[0] == 2


def test_two_inputs_of_one_name_are_both_done(transcribe, recordings, tmp_path):
    soundfile.write(tmp_path / "a.flac", np.full(RATE, 0.1), RATE)
    status, _, messages = transcribe(recordings / "a.wav", tmp_path / "a.flac", "-o", tmp_path / "out")
    assert status == 0 and {path.name for path in (tmp_path / "out").iterdir()} == {"a.txt", "a.flac.txt"}
    assert f"{tmp_path / 'a.flac'}: {recordings / 'a.wav'} has the same name" in messages


def test_process_with_names_that_are_no_text(recordings, tiny_ctc_model, tmp_path):
    names = [b"caf\xe9.wav", b"tab\tnew\nline.wav"]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write((recordings / "a.wav").read_bytes())
    options = ["--model", tiny_ctc_model, "--vad_onset", "0", tmp_path]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = process(*options, env=environment)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2
    assert [line.split(b"\t")[0].rsplit(b"/")[-1] for line in lines] == [b"caf\xe9.wav", b"tab\\tnew\\nline.wav"]
    done = process(*options, "-o", tmp_path / "out", "-f", "all", env=environment)
    assert done.returncode == 0 and not done.stderr
    assert {path.split(b".")[0] for path in os.listdir(os.fsencode(tmp_path / "out"))} == {n[:-4] for n in names}
    done = process(*options, "-f", "json", env=environment)
    paths = [json.loads(line)["path"] for line in done.stdout.decode("utf-8").splitlines()]
    assert {os.fsencode(path).rsplit(b"/")[-1] for path in paths} == set(names)


def test_the_longest_name_that_a_file_system_takes(transcribe, recordings, tmp_path):
    path = tmp_path / ("n" * 251 + ".wav")
    path.write_bytes((recordings / "a.wav").read_bytes())
    status, _, messages = transcribe(path, "-o", tmp_path / "out", "-f", "all")
    assert status == 0 and messages.count("its name is too long") == len(messages.splitlines()) == 1
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_no_help_text_names_a_default_that_does_not_ship():
    from asr.loading import DEFAULT, SHIPPED, WEIGHTS
    from asr.transcribe import make_parser
    from dlm.correct import make_parser as correct_parser
    from dlm.writing import SHIPPED as WRITING

    assert (WEIGHTS / SHIPPED[DEFAULT]).is_dir() and f"(default: {DEFAULT})" in make_parser().format_help()
    for text in (make_parser().format_help(), correct_parser().format_help()):
        assert "default: writing, the one in the package)" in " ".join(text.split()) and WRITING.is_dir()


def test_clips_and_times_of_text(transcribe, tmp_path):
    soundfile.write(tmp_path / "long.wav", 0.1 * np.random.default_rng(0).standard_normal(4 * RATE), RATE)
    options = ("--clip_timestamps", "0.5,1.5,3", "--timestamps")
    _, printed, _ = transcribe(tmp_path / "long.wav", *options)
    assert [line[:25] for line in printed.splitlines()] == ["[00:00.500 --> 00:01.500]", "[00:03.000 --> 00:04.000]"]
    transcribe(tmp_path / "long.wav", *options, "-f", "all", "-o", tmp_path)
    assert (tmp_path / "long.txt").read_text() == printed
    written = json.loads((tmp_path / "long.json").read_text())
    assert written["duration"] == 4 and [s["start"] for s in written["segments"]] == [0.5, 3]
    for wrong in ("3,1", "a"):
        status, _, messages = transcribe(tmp_path / "long.wav", "--clip_timestamps", wrong)
        assert status == 2 and "one after the other" in messages
    assert "times of its own" in transcribe(tmp_path / "long.wav", "-f", "srt", "--timestamps")[2]
    status, printed, messages = transcribe(tmp_path / "long.wav", "--clip_timestamps", "100")
    assert (status, printed) == (0, "") and "ends at 4.0 s, before the clip that starts at 100 s" in messages


def test_names_to_expect(transcribe, recordings, tmp_path):
    status, printed, _ = transcribe(recordings / "a.wav", "--hotwords", "hello", "--hotword_strength", "20")
    assert status == 0 and printed != transcribe(recordings / "a.wav", "--decoder", "beam")[1]
    for names in (" ,", f"@{tmp_path / 'missing.txt'}"):
        status, _, messages = transcribe(recordings / "a.wav", "--hotwords", names)
        assert status == 2 and len(messages.splitlines()) == 1


@pytest.mark.parametrize("options", [(), ("-o", "out", "-f", "srt")])
def test_an_interrupted_program_keeps_what_is_done(tiny_ctc_model, tmp_path, options):
    soundfile.write(tmp_path / "long.flac", 0.1 * np.random.default_rng(0).standard_normal(600 * RATE), RATE)
    command = [sys.executable, "-m", "asr.transcribe", "--model", tiny_ctc_model, "--vad_onset", "0", "--verbose",
               "--batch_size", "1", *options, "long.flac"]  # fmt: skip
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    shown = running.stderr.readline()  # while the recording goes on
    running.send_signal(signal.SIGINT)
    printed, messages = running.communicate(timeout=120)
    assert running.returncode == 130 and "Traceback" not in messages
    assert shown.startswith("long.flac [00:00.000 --> ") and "its text until" in messages
    kept = (tmp_path / "out" / "long.partial.srt").read_text() if options else printed
    assert shown.split("] ", 1)[1].split()[0] in kept
