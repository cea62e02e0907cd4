"""Tables and texts as people write them, made what Conformers write."""

from pathlib import Path

import pytest

from asr.text.tokenizer import Tokenizer
from recipes.data.corpora import Recording, read_sentences, read_table
from recipes.data.speech_data import collate
from recipes.data.spelling import loses_words, normalised, spelled


def recordings(*texts):
    return [Recording(str(i), Path(f"{i}.wav"), "ann", text) for i, text in enumerate(texts)]


def test_capitals_and_punctuation_are_normalised_and_counted(capsys):
    kept = spelled(recordings("Hello, World!", "it\u2019s caf\u00e9\u2014time", "as it is", ""), "train.tsv")
    assert [recording.text for recording in kept] == ["hello world", "it's cafe time", "as it is", ""]
    message = capsys.readouterr().err
    assert message == "train.tsv: 2 of 4 texts were normalised, 'Hello, World!' is now 'hello world'\n"


def test_rows_whose_words_are_not_written_down_are_left_out(capsys):
    table = recordings("in 1984", "R&D", "\u043f\u0440\u0438\u0432\u0435\u0442", "stra\u00dfe", "...", "fine")
    kept = spelled(table, "t.tsv")
    assert [recording.text for recording in kept] == ["fine"]
    assert "5 of 6 texts are left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="t.tsv: no text is left"):
        normalised(["1", "2"], "t.tsv")
    assert not loses_words("d\u00e9j\u00e0 vu - \u201cyes\u201d; no")


def test_training_never_meets_an_unknown_character():
    """Also with stores and texts that were written before they were normalised."""
    import torch

    from dlm.units import Characters

    tokenizer = Tokenizer.train(["hello world"] * 4, vocabulary=48)
    features = [torch.zeros(10, 80)] * 2
    batch = collate(features, ["Hello, W\u00f6rld 42!", "hello world"], tokenizer)
    assert batch["tokens"][0].tolist() == batch["tokens"][1].tolist()
    assert batch["characters"][0].tolist() == batch["characters"][1].tolist()
    assert Characters().encode("Hello!") == Characters().encode("hello")


def test_tables_with_a_byte_order_mark(tmp_path):
    (tmp_path / "t.tsv").write_text("id\tpath\ttext\na\ta.wav\thello\n", encoding="utf-8-sig")
    assert read_table(tmp_path / "t.tsv")[0].id == "a"
    (tmp_path / "t.txt").write_text("hello\nworld\n", encoding="utf-8-sig")
    assert read_sentences(tmp_path / "t.txt") == ["hello", "world"]


def test_paths_that_are_no_text(tmp_path):
    (tmp_path / "t.tsv").write_bytes(b"id\tpath\ttext\na\tcaf\xe9.wav\thello\n")
    (tmp_path / "caf\udce9.wav").touch()
    assert read_table(tmp_path / "t.tsv")[0].path.exists()
