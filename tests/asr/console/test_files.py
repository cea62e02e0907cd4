"""Inputs behind arguments, and the names of outputs."""

import os
from pathlib import Path

import pytest

from asr.console.inputs import expand_inputs
from asr.console.outputs import name_outputs


@pytest.fixture
def folder(tmp_path):
    for name in ("a.wav", "deep/b.flac", "notes.txt", ".hidden.wav", "._a.wav", ".trash/c.wav", "deep/d.3gp", "e.TS"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    return tmp_path / "in"


def test_folders_are_searched_and_what_is_hidden_is_left_out(folder):
    inputs, failures = expand_inputs([str(folder)])
    assert {path.as_posix() for path in inputs.values()} == {"a.wav", "deep/b.flac", "deep/d.3gp", "e.TS"}
    assert list(inputs) == sorted(inputs) and failures == []


def test_what_is_named_twice_is_taken_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    inputs, _ = expand_inputs(["a.wav", "./a.wav", str(folder / "a.wav"), "*.wav", "deep/../a.wav"])
    assert list(inputs) == ["a.wav"]


def test_names_that_are_no_text(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.wav")
    open(path, "w").close()
    assert [os.fsencode(source) for source in expand_inputs([str(tmp_path)])[0]] == [path]


def stem(path: Path) -> Path:
    return path.with_suffix("")


def named(*sources: str, spare: int = 5) -> tuple[list[str], list[str]]:
    outputs, remarks = name_outputs({source: Path(Path(source).name) for source in sources}, Path("out"), stem, spare)
    return [str(path.relative_to("out")) for path in outputs.values()], remarks


def test_outputs_have_the_names_of_their_inputs():
    assert named("x/a.wav", "y/b.mp3") == (["a", "b"], [])


def test_two_inputs_of_one_name_go_to_different_places_with_a_remark():
    names, remarks = named("x/a.wav", "y/a.mp3", "z/a.wav", "z/a.mp3.wav")
    assert names == ["a", "a.mp3", "a.wav", "a.mp3.wav"]
    assert remarks[0] == "y/a.mp3: x/a.wav has the same name; this one is written as out/a.mp3"
    assert len(remarks) == 3
    assert named("x/a.wav", "y/a.wav", "z/a.wav", "q/a.wav")[0] == ["a", "a.wav", "a-2", "a-3"]


def test_long_names_are_cut_to_what_a_file_system_takes():
    names, remarks = named("x/" + "ä" * 123 + "aaaa.wav", "y/" + "ä" * 123 + "aaab.wav")
    assert len(set(names)) == 2 and all(len(os.fsencode(name)) + 5 <= 255 for name in names)
    assert len(remarks) == 1 + (names[0] != "ä" * 123 + "aaaa")
