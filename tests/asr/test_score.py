import json
import subprocess
import sys

import numpy as np
import pytest

from asr.score import bootstrap_interval, error_counts, main, paired_bootstrap, whisper_normaliser
from asr.text.texts import read_pair, read_texts

FILES = {
    "trans.txt": "1-2-0001 HELLO WORLD\n1-2-0002 GOOD BYE\n",
    "table.tsv": "id\tspeaker\ttext\n1-2-0001\t1\tHELLO WORLD\n1-2-0002\t1\tGOOD BYE\n",
    "paths.tsv": "path\ttext\na/1-2-0001.flac\tHELLO WORLD\nb/1-2-0002.mp3\tGOOD BYE\n",
    "pairs.txt": "x/1-2-0001.wav\tHELLO WORLD\nx/1-2-0002.wav\tGOOD BYE\n",
    "kaldi.txt": "1-2-0001 HELLO  WORLD\n\n1-2-0002 GOOD\u00a0BYE\n",
    "sclite.trn": ";; a comment\nHELLO WORLD (1-2-0001)\nGOOD BYE (1-2-0002)\n",
    "table.csv": '\ufeffpath,text\r\n"a/1-2-0001.flac","HELLO WORLD"\r\nb/1-2-0002.mp3,GOOD BYE\r\n',
    "common_voice.tsv": "client_id\tpath\tsentence\n9\t1-2-0001.mp3\tHELLO WORLD\n9\t1-2-0002.mp3\tGOOD BYE\n",
    "array.json": '[{"id": "1-2-0001", "text": "HELLO WORLD"}, {"id": "1-2-0002", "text": "GOOD BYE"}]',
    "nemo.json": '{"audio_filepath": "x/1-2-0001.wav", "duration": 1.0, "text": "HELLO WORLD"}\n'
    '{"audio_filepath": "x/1-2-0002.wav", "duration": 1.0, "text": "GOOD BYE", "pred_text": "good boy"}\n',
    "lines.jsonl": '{"id": "1-2-0001", "text": "HELLO WORLD"}\n{"path": "1-2-0002.wav", "text": "GOOD BYE"}',
}


@pytest.mark.parametrize("name", FILES)
def test_layouts(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    assert read_texts(tmp_path / name) == {"1-2-0001": "HELLO WORLD", "1-2-0002": "GOOD BYE"}


def test_plain_lines_and_folders(tmp_path):
    (tmp_path / "plain.txt").write_text("hello world\n\n42 is the answer\n")
    expected = {"line 1": "hello world", "line 2": "", "line 3": "42 is the answer"}
    assert read_texts(tmp_path / "plain.txt") == expected
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "out" / "1-2.trans.txt").write_text(FILES["trans.txt"])
    assert read_texts(tmp_path / "out") == {"a": "one two", "1-2-0001": "HELLO WORLD", "1-2-0002": "GOOD BYE"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "text": "x"}\n{broken\n', "line 2 is not JSON"),
        ("1-2-0001 x\n1-2-0001 y\n", "occurs twice"),
        ('{"text": "x"}\n', "neither id nor path"),
        ('{"id": "a", "txt": "x"}\n', "has no text"),
        ('id,text\na,hello, there\n', "put texts that hold commas between quotes"),
        (b"\xff\xfe\xff", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_texts(path)


def test_words_that_hold_digits_are_no_ids(tmp_path):
    content = "mid-90s the music was loud\ncovid-19 is over\n24-hour 9-5 shifts\nak-47 b2b 1990s\n"
    (tmp_path / "a.txt").write_text(content)
    assert read_texts(tmp_path / "a.txt")["line 1"] == "mid-90s the music was loud"
    (tmp_path / "a.txt").write_text("[laughter] yes\n[noise] no\n")
    assert read_texts(tmp_path / "a.txt")["line 2"] == "[noise] no"


def test_first_words_in_another_order_are_ids(tmp_path):
    (tmp_path / "r.txt").write_text("ann hello there\nbob good day\n")
    (tmp_path / "h.txt").write_text("bob good day\nann hello there\n")
    references, hypotheses = read_pair(tmp_path / "r.txt", tmp_path / "h.txt")
    assert references == hypotheses == {"ann": "hello there", "bob": "good day"}
    assert "first word of a line is its id" in references.layout


def test_lines_end_at_newlines_only(tmp_path):
    (tmp_path / "a.txt").write_text("one\u2028two\x85three\x0bfour\nfive\n", encoding="utf-8")
    assert read_texts(tmp_path / "a.txt") == {"line 1": "one two three four", "line 2": "five"}
    rows = '{"id": "a", "text": "one\u2028two"}\n{"id": 0, "text": null}\n'
    (tmp_path / "b.jsonl").write_text(rows, encoding="utf-8")
    assert read_texts(tmp_path / "b.jsonl") == {"a": "one two", "0": ""}


def test_transcripts_of_our_own(tmp_path):
    transcript = '{\n "text": "hello world",\n "segments": [],\n "duration": 1.0\n}\n'
    (tmp_path / "out").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "out" / name).write_text(transcript)
    assert read_texts(tmp_path / "out") == {"a": "hello world", "b": "hello world"}
    assert read_texts(tmp_path / "out" / "a.json") == {"a": "hello world"}


def test_hypotheses_of_nemo_are_what_was_recognised(tmp_path):
    (tmp_path / "m.json").write_text('{"audio_filepath": "a.wav", "text": "good day", "pred_text": "good die"}\n')
    references, hypotheses = read_pair(tmp_path / "m.json", tmp_path / "m.json")
    assert (references["a"], hypotheses["a"]) == ("good day", "good die")


def test_names_that_are_no_text_are_ids_and_texts_are_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9.wav\thello\nb.wav\tworld\n")
    assert list(read_texts(tmp_path / "a.txt").values()) == ["hello", "world"]
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_texts(tmp_path / "a.txt")


def test_error_counts_of_known_cases():
    references = ["the cat sat", "a b c d", "", "same same"]
    hypotheses = ["the bat sat down", "a d", "oops", "same same"]
    counts = error_counts(references, hypotheses)
    assert counts.substitutions.tolist() == [1, 0, 0, 0]
    assert counts.insertions.tolist() == [1, 0, 1, 0]
    assert counts.deletions.tolist() == [0, 2, 0, 0]
    assert counts.reference.tolist() == [3, 4, 0, 2]
    assert counts.rate == pytest.approx(5 / 9)
    assert error_counts(["abc"], ["abd"], unit="character").rate == pytest.approx(1 / 3)
    assert np.isnan(error_counts([""], ["x"]).rate)
    assert np.isnan(error_counts([], []).rate)
    with pytest.raises(ValueError, match="cannot be paired"):
        error_counts(["a"], [])


def random_system(error_rate, utterances=300, seed=0):
    rng = np.random.default_rng(seed)
    references = [" ".join("w" for _ in range(rng.integers(5, 15))) for _ in range(utterances)]
    errors = np.random.default_rng(seed + 1)
    hypotheses = [" ".join("x" if errors.random() < error_rate else w for w in r.split()) for r in references]
    return error_counts(references, hypotheses)


def test_bootstrap_interval_is_about_two_standard_errors_wide_and_seeded():
    counts = random_system(0.2)
    low, high = bootstrap_interval(counts)
    expected = 1.96 * np.sqrt(0.2 * 0.8 / counts.reference.sum())
    assert low < counts.rate < high
    assert (high - low) / 2 == pytest.approx(expected, rel=0.25)
    assert (low, high) == bootstrap_interval(counts)
    assert (low, high) != bootstrap_interval(counts, seed=1)


def test_bootstrap_without_variation():
    assert bootstrap_interval(error_counts(["a b"] * 5, ["a b"] * 5)) == (0.0, 0.0)


def test_paired_bootstrap_tells_systems_apart():
    bad, good = random_system(0.2), random_system(0.1)
    low, high, better = paired_bootstrap(bad, good)
    assert low < good.rate - bad.rate < high < 0
    assert better == 1.0
    assert paired_bootstrap(bad, bad) == (0.0, 0.0, 0.5)
    with pytest.raises(ValueError, match="same references"):
        paired_bootstrap(bad, random_system(0.2, utterances=200))


def test_whisper_normaliser_names_itself():
    name, normalise = whisper_normaliser()
    assert "Whisper" in name and "transformers" in name
    assert normalise("Mr. Smith isn't HERE, um.") == "mister smith is not here"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "ref.txt").write_text("1-1-0 Hello, world\n1-1-1 good bye\n2-1-0 never seen\n")
    (tmp_path / "hyp.txt").write_text("1-1-0 hello word\n1-1-1 good bye\n9-9-9 extra\n")
    return str(tmp_path / "ref.txt"), str(tmp_path / "hyp.txt")


def test_json_report(files, capsys):
    assert main([*files, "--json", "--by_speaker", "--worst", "1"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    raw, normalised = result["scores"]
    assert raw["normaliser"] == "none" and raw["wer"] == pytest.approx(4 / 6)
    assert "Whisper" in normalised["normaliser"] and normalised["wer"] == pytest.approx(3 / 6)
    assert (normalised["substitutions"], normalised["insertions"], normalised["deletions"]) == (1, 0, 2)
    assert normalised["interval"][0] <= normalised["wer"] <= normalised["interval"][1]
    assert result["missing"] == ["2-1-0"] and result["extra"] == ["9-9-9"]
    assert result["speakers"]["1"]["wer_normalised"] == pytest.approx(1 / 4)
    assert result["worst"][0]["id"] == "2-1-0" and "REF: never seen" in result["worst"][0]["alignment"]
    assert "2-1-0" in err and "9-9-9" in err


def test_command_line_as_a_process(files):
    done = subprocess.run(
        [sys.executable, "-m", "asr.score", *files, "--by_speaker"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "WER 66.67 %" in done.stdout and "WER 50.00 %" in done.stdout and "CER" in done.stdout
    assert f"{files[0]}: the first word of a line is its id\n" in done.stderr
    assert "1 without a hypothesis" in done.stderr and "1 without a reference" in done.stderr
    command = [sys.executable, "-m", "asr.score", files[0], "nowhere"]
    wrong = subprocess.run(command, capture_output=True, text=True)
    assert wrong.returncode == 2 and "nowhere: cannot be read" in wrong.stderr and not wrong.stdout


@pytest.mark.parametrize(
    ("reference", "hypothesis", "message"),
    [
        ("a\nb\n", "a\n", "2 lines of references and 1 of hypotheses"),
        ("1-2-01 x\n", "1-2-02 x\n", "no id in common"),
        ("", "1-2-01 x\n", "no references"),
    ],
)
def test_files_that_cannot_be_paired(tmp_path, capsys, reference, hypothesis, message):
    (tmp_path / "r.txt").write_text(reference)
    (tmp_path / "h.txt").write_text(hypothesis)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "r.txt"), str(tmp_path / "h.txt")])
    assert stop.value.code == 2 and message in capsys.readouterr().err
