"""Labels and combined tables: what becomes of each recording, resumption, statistics."""

import json

import numpy as np
import pytest
import soundfile

from recipes.data import label as labelling
from recipes.data import labellers
from recipes.data.recording_rows import combine, read
from recipes.prepare import main

SAID = {  # what a good and a poor recogniser hear in recordings of so many tenths of a second
    10: ("Nor is Mr. Kultur's manner.", "nor is mister culture's manner"),
    11: ("The same words, twice.", "the same words twice"),
    12: ("Something else entirely.", "other words at all"),
    13: ("", "you"),
    14: ("Nearly the same words that the other one has heard.", "nearly the same words that the other one has herd"),
}


class Recorder:
    """A labeller that knows recordings by their length and counts what it hears."""

    longest = 28.0
    heard = 0

    def __init__(self, which: int):
        self.which = which

    def transcribe(self, waves, references=None):
        Recorder.heard += len(waves)
        return [SAID[round(len(wave) / 1600)][self.which] for wave in waves]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Seven recordings: plain text, written text, four without text and one that is too long."""
    rows = [
        ("plain", 10, "libri", "NOR IS MISTER QUILTER'S MANNER"),
        ("written", 10, "books", "Written by hand, long ago."),
        *((f"none{tenths}", tenths, "radio", "") for tenths in (11, 12, 13, 14)),
        ("long", 300, "radio", ""),
    ]
    lines = ["id\tpath\tspeaker\tsource\tseconds\ttext"]
    for id, tenths, source, text in rows:
        soundfile.write(tmp_path / f"{id}.wav", np.full(1600 * tenths, 0.1), 16000)
        lines.append(f"{id}\t{id}.wav\tsomebody\t{source}\t{tenths / 10}\t{text}")
    (tmp_path / "table.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(labellers, "load_labeller", lambda name, **_: Recorder(["good", "poor"].index(name)))
    monkeypatch.setattr(Recorder, "heard", 0)
    return tmp_path / "table.tsv"


def run(table, *options: str) -> tuple[int, dict[str, str]]:
    out = table.with_name("labelled.tsv")
    status = main(["label", str(table), str(out), "--model", "good", *options])
    return status, {row.id: row.text for row in read(out)}


def test_each_recording_meets_its_fate(table, capsys):
    status, texts = run(table, "--second", "poor")
    assert status == 0
    assert texts == {
        "plain": "Nor is Mr. Quilter's manner.",
        "written": "Written by hand, long ago.",
        "none11": "The same words, twice.",
        "none14": "Nearly the same words that the other one has heard.",
    }
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    header = "source agreed as published carried over disagreed silent too long hours kept differs".split()
    assert lines[0] == header
    assert lines[1] == ["books", "0", "1", "0", "0", "0", "0", "0.00", "0.00"]
    assert lines[2][:7] == ["libri", "0", "0", "1", "0", "0", "0"] and lines[2][-1] == "16.7%"
    assert lines[3][:7] == ["radio", "2", "0", "0", "1", "1", "1"]


def test_the_threshold_decides_and_needs_no_second_hearing(table):
    run(table, "--second", "poor")
    heard = Recorder.heard
    assert heard == 5 + 4  # the second one hears what has no text
    assert "none14" not in run(table, "--second", "poor", "--threshold", "0.05")[1]
    assert Recorder.heard == heard


def test_without_a_second_recogniser_only_known_words_are_kept(table):
    assert set(run(table)[1]) == {"plain", "written"}


def test_a_lost_shard_is_heard_again(table, monkeypatch):
    monkeypatch.setattr(labelling, "SHARD_ROWS", 2)
    _, before = run(table, "--second", "poor")
    heard, parts = Recorder.heard, sorted(table.with_name("labelled.parts").rglob("*.jsonl"))
    assert len(parts) == 3 + 2
    parts[0].unlink()
    assert run(table, "--second", "poor")[1] == before
    assert Recorder.heard == heard + 2


def test_machines_share_the_work(table, monkeypatch, capsys):
    monkeypatch.setattr(labelling, "SHARD_ROWS", 2)
    out = table.with_name("labelled.tsv")
    arguments = ["label", str(table), str(out), "--model", "good", "--second", "poor", "--shard_count", "2"]
    assert main([*arguments, "--shard_index", "0"]) == 0 and not out.exists()
    assert "last machine" in capsys.readouterr().err
    assert main([*arguments, "--shard_index", "1"]) == 0 and len(read(out)) == 4
    assert Recorder.heard == 5 + 4


def test_what_cannot_be_read_is_named_and_the_rest_done(table, capsys):
    table.with_name("plain.wav").write_bytes(b"RIFF nonsense")
    status, texts = run(table, "--second", "poor")
    assert status == 1 and "plain" not in texts and len(texts) == 3
    assert "plain.wav" in capsys.readouterr().err


def test_several_seconds_need_one_that_agrees():
    assert labelling.agreed(["Hello there.", "good bye", "hello there"], 0.1)
    assert not labelling.agreed(["Hello there.", "good bye", ""], 0.1)
    assert not labelling.agreed(["", "", "hello"], 0.1) and not labelling.agreed(["Hello"], 0.1)


# -- combining ---------------------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path):
    """Two tables in folders of their own that share a recording, and a held-out one."""

    def make(name: str, *rows: str):
        folder = tmp_path / name
        folder.mkdir()
        for row in rows:
            soundfile.write(folder / row.split("\t")[1], np.zeros(16000), 16000)
        (folder / "table.tsv").write_text("\n".join(["id\tpath\tspeaker\ttext", *rows]) + "\n")
        return str(folder / "table.tsv")

    first = make("first", "a\ta.wav\tann\t", "b\tb.wav\tben\tHello.", "c\tc.wav\tcarl\tFrom a test speaker.")
    second = make("second", "a\ta.wav\tann\tNow with text.", "d\td.wav\tdora\t", "e\te.wav\teve\tMissing.")
    (tmp_path / "second" / "e.wav").unlink()
    return first, second, make("dev", "x\tx.wav\tcarl\tfor tests")


def test_one_set_out_of_several_tables(tables, tmp_path, capsys):
    first, second, dev = tables
    out = tmp_path / "all.tsv"
    assert main(["combine", first, second, "--held_out", dev, "--out", str(out)]) == 1
    shown = capsys.readouterr()
    rows = {row.id: row for row in read(out)}
    assert {id: row.text for id, row in rows.items()} == {"a": "Now with text.", "b": "Hello."}
    assert rows["a"].path == tmp_path / "second" / "a.wav" and rows["b"].seconds == 1 and rows["b"].source == "table"
    assert "e.wav: no such file" in shown.err
    assert dict(zip(*(line.split() for line in (
        "source held_out missing_file taken twice without_text hours kept", shown.out.splitlines()[1]
    )), strict=True)) == {"source": "table", "held_out": "1", "missing_file": "1", "taken": "2", "twice": "1",
                          "without_text": "1", "hours": "0.00", "kept": "0.00"}  # fmt: skip
    assert len(combine([first, second], unlabelled=True)[0]) == 4


def test_ids_must_differ(tmp_path):
    (tmp_path / "t.tsv").write_text("id\tpath\ttext\na\ta.wav\tx\na\tb.wav\ty\n")
    with pytest.raises(ValueError, match="the id a occurs twice"):
        read(tmp_path / "t.tsv")


def test_parts_are_plain_json(table):
    run(table, "--second", "poor")
    (part,) = (table.with_name("labelled.parts")).glob("good-*/00000.jsonl")
    assert json.loads(part.read_text().splitlines()[0]) == {"id": "plain", "text": SAID[10][0]}
