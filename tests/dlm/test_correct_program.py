"""`python -m dlm.correct`: every layout in, the same layout out."""

import json
import subprocess
import sys

import pytest

from dlm.correct import difference, main


@pytest.fixture
def words(copying_dlm, tmp_path):
    """The folder of a model that corrects words: "axb" is "aab"."""
    copying_dlm.save_pretrained(tmp_path / "words")
    return str(tmp_path / "words")


@pytest.fixture
def writing(writing_model, tmp_path):
    """The folder of a model that restores writing, see `writing_model`."""
    writing_model.save_pretrained(tmp_path / "writing")
    return str(tmp_path / "writing")


def corrected(tmp_path, capsys, name, content, *arguments):
    """Exit status, standard output and standard error for one input file."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    status = main([str(path), *arguments])
    return status, *capsys.readouterr()


def test_help_does_not_import_torch():
    code = "import sys; from dlm.correct import make_parser; make_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_lines_through_a_pipe(words):
    command = [sys.executable, "-m", "dlm.correct", "--model", words, "--threads", "1", "--margin", "1"]
    result = subprocess.run(command, input="axb\n\nbab\nчто\n", capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "aab\n\nbab\nчто\n")
    assert "passed through" in result.stderr


def test_words_first_then_writing(words, writing, tmp_path, capsys):
    arguments = ["--model", writing, "--model", words, "--margin", "1"]
    assert corrected(tmp_path, capsys, "a.txt", "axb\r\n\r\nb", *arguments)[1] == "Aab.\n\nBoB.\n"


def test_more_lines_than_are_held_at_once(writing, tmp_path, capsys):
    lines = ["a x c", "", "k"] * 30
    out = corrected(tmp_path, capsys, "a.txt", "\n".join(lines), "--model", writing, "--batch_size", "2")[1]
    assert out.split("\n") == ["A x. C.", "", "K."] * 30 + [""]


def test_what_is_no_text_is_refused_and_the_rest_done(writing, tmp_path, capsys):
    (tmp_path / "good.txt").write_text("a")
    good, out = str(tmp_path / "good.txt"), tmp_path / "out"
    status, _, err = corrected(tmp_path, capsys, "bad.txt", b"a\n\xff\xfe", good, "--model", writing, "-o", str(out))
    assert status == 1 and "bad.txt: is not UTF-8 text (line 2)" in err
    assert [path.name for path in out.iterdir()] == ["good.txt"] and (out / "good.txt").read_text() == "A.\n"


def test_subtitles_keep_their_times(writing, tmp_path, capsys):
    srt = "1\n00:00:01,000 --> 00:00:02,500\na x\nc b\n\n2\n00:00:03,000 --> 00:00:04,000\nx k\n<i>d</i>\n"
    out = corrected(tmp_path, capsys, "a.srt", srt, "--model", writing)[1]
    assert out == srt.replace("a x\nc b", "A x.\nC BoB").replace("x k\n", "x. K.\n")
    vtt = "WEBVTT\n\nNOTE a x\n\nintro\n00:01.000 --> 00:02.000 align:start\na x c\n"
    out = corrected(tmp_path, capsys, "a.vtt", vtt, "--model", writing)[1]
    assert out == vtt.replace("\na x c", "\nA x. C.")


def test_transcript_keeps_its_word_times(words, writing, tmp_path, capsys):
    segments = []
    for start, word in enumerate(["axb", "aba"]):
        said = [{"text": word, "start": start + 0.25, "end": start + 0.5, "confidence": 0.5}]
        segments.append({"start": start, "end": start + 1, "text": word, "words": said, "score": -3.0, "nbest": []})
    content = json.dumps({"text": "axb aba", "duration": 2.0, "segments": segments})
    arguments = ["--model", words, "--model", writing, "--margin", "1"]
    result = json.loads(corrected(tmp_path, capsys, "a.json", content, *arguments)[1])
    assert result["text"] == "Aab aba." and result["duration"] == 2.0
    assert [segment["words"] for segment in result["segments"]] == [
        [{"text": "Aab", "start": 0.25, "end": 0.5, "confidence": 0.5}],
        [{"text": "aba.", "start": 1.25, "end": 1.5, "confidence": 0.5}],
    ]
    assert result["segments"][0].keys() == segments[0].keys()


def test_sure_words_of_a_transcript_stay(words, tmp_path, capsys):
    said = [{"text": "axb", "start": 0.0, "end": 1.0, "confidence": 0.99}]
    content = json.dumps({"segments": [{"start": 0.0, "end": 1.0, "text": "axb", "words": said}]})
    assert json.loads(corrected(tmp_path, capsys, "a.json", content, "--model", words)[1]) == json.loads(content)


def test_whispers_json(writing, tmp_path, capsys):
    said = [{"word": " a", "start": 0.0, "end": 0.4, "probability": 0.9}, {"word": " x", "start": 0.4, "end": 0.9,
            "probability": 0.8}]  # fmt: skip
    segments = [{"id": 0, "start": 0.0, "end": 1.0, "text": " a x", "tokens": [1, 2], "words": said},
                {"id": 1, "start": 1.0, "end": 2.0, "text": " b", "tokens": [3]}]  # fmt: skip
    content = json.dumps({"text": " a x b", "segments": segments, "language": "en"}, indent=2)
    result = json.loads(corrected(tmp_path, capsys, "a.json", content, "--model", writing)[1])
    assert result["text"] == " A x. BoB." and result["language"] == "en"
    assert result["segments"][0]["words"] == [{**said[0], "word": " A"}, {**said[1], "word": " x."}]
    assert result["segments"][1] == {"id": 1, "start": 1.0, "end": 2.0, "text": " BoB."}


def test_nbest_lines_and_bad_ones(words, tmp_path, capsys):
    out = tmp_path / "out"
    rows = [{"id": "1", "nbest": [["axb", -1.0], ["ab", -2.0]]}, {"id": "2", "text": "bb"}, {"id": "3"}]
    content = "\n".join([*map(json.dumps, rows), "{broken"])
    arguments = [str(tmp_path / "missing"), "--model", words, "--margin", "1", "-o", str(out)]
    status, _, err = corrected(tmp_path, capsys, "nbest.jsonl", content, *arguments)
    messages = err.splitlines()
    assert status == 1 and [m.split(": ", 1)[1] for m in messages] == [
        'has neither "segments", "nbest", "hypotheses" nor "text": {"id": "3"}',
        "line 4 is not JSON (Expecting property name enclosed in double quotes)",
        "No such file or directory",
    ]
    written = [json.loads(line) for line in (out / "nbest.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in written] == [("1", "aab"), ("2", "bb")]


def test_diff(words, writing, tmp_path, capsys):
    out = corrected(tmp_path, capsys, "a.txt", "axb\nbab\n", "--model", words, "--margin", "1", "--diff")[1]
    changed, same = out.splitlines()
    assert changed.startswith("[-axb-] {+aab+}  (gain ") and same == "bab"
    assert corrected(tmp_path, capsys, "a.txt", "a c", "--model", writing, "--diff")[1] == "[-a c-] {+A c.+}\n"
    assert difference("a b", "a", 2.0, coloured=True) == "a \033[31m[-b-]\033[0m  (gain 2.0 nats)"


def test_unknown_model_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        corrected(tmp_path, capsys, "a.txt", "axb\n", "--model", str(tmp_path / "nothing"))
    assert stop.value.code == 2 and "nothing" in capsys.readouterr().err
