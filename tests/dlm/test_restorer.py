"""Restoring case and punctuation: words stay, texts of any length and script are dealt with."""

import logging

import pytest
import torch

from dlm import Restorer, RestorerOptions, WritingModel
from dlm.restorer import plain_words
from dlm.writing import WordPieces, collate
from tests.dlm.conftest import PIECES, SIZES


@pytest.fixture
def restorer(writing_model):
    return Restorer(writing_model, RestorerOptions(window=20, margin=4))


def test_lines_are_written(restorer):
    assert restorer("a b x c k d") == "A BoB x. C k, d."
    assert restorer([("a x c", -1.0), ("c", -2.0)]) == "A x. C."
    assert restorer("A X C") == "A x. C."  # capitals throughout are no case
    assert [c.text for c in restorer.correct(["a x", "", "k c"])] == ["A x.", "", "K, c."]
    assert restorer([]) == ""


def test_numbers_and_the_pronoun_are_no_writing(restorer):
    assert restorer("c I x 3.5 d") == "C i x. 3.5 d."


def test_running_text_goes_on_from_part_to_part(restorer):
    assert restorer.write(["a x c", "d  a", "", "x c"]) == ["A x. C", "d a", "", "x. C."]
    assert restorer.write([]) == [] and restorer.write(["", " "]) == ["", " "]


def test_long_texts_are_the_same_as_short_ones(restorer, writing_model):
    words = ["axkcd"[i] for i in torch.randint(0, 5, (300,), generator=torch.Generator().manual_seed(1))]
    text = restorer(" ".join(words))
    expected = Restorer(writing_model, RestorerOptions(window=16, margin=3))(" ".join(words))
    assert text == expected and text.lower().replace(".", "").replace(",", "").split() == words
    assert text.lower().count("x.") == words.count("x")


@pytest.mark.parametrize("text", ["", "  ", "...", "я не знаю", "Already written.", "so, it has marks"])
def test_what_is_not_plain_english_passes_through(restorer, text):
    assert restorer(text) == text
    assert restorer.write([text, text]) == [text, text]


def test_passing_through_is_said(restorer, caplog):
    with caplog.at_level(logging.WARNING):
        restorer.correct(["что это", "Written.", "Too.", "a x"])
    assert len(caplog.messages) == 2 and "что" in caplog.messages[0] and "already" in caplog.messages[1]


def test_no_word_changes(restorer):
    line = "don't 42 — a" + "b" * 500 + " naïve x_y $3.50 it's"
    before, after = line.split(), restorer(line).split()
    assert [word.lower().rstrip(".,") for word in after] == before


def test_gibberish_of_many_pieces_fits_the_encoder(writing_model):
    text = "abcdefghijk " * 250 + "x"
    assert Restorer(writing_model)(text).split()[-1] == "x." and len(Restorer(writing_model)(text).split()) == 251


def test_biases_and_bad_options(writing_model):
    assert Restorer(writing_model, RestorerOptions({",": -100.0}))("a k c") == "A k c."
    with pytest.raises(ValueError, match="more than twice the margin"):
        RestorerOptions(window=40, margin=20)
    with pytest.raises(ValueError, match="biases name"):
        RestorerOptions({"*": 1.0})


def test_saved_in_eight_bits_and_loaded(writing_model, tmp_path):
    writing_model.save_eight_bits(tmp_path)
    loaded = Restorer.from_pretrained(tmp_path, window=30, margin=5)
    assert loaded.options.window == 30 and loaded("a b x c k d") == "A BoB x. C k, d."
    with pytest.raises(OSError, match="nothing"):
        Restorer.from_pretrained(tmp_path / "nothing")


def test_a_bert_is_cut_to_the_units_that_stay(tmp_path):
    """The cut model tags as the whole one does where no unit is missing."""
    import json

    from transformers import BertConfig, BertModel

    whole = [*PIECES[:4], "[MASK]", *PIECES[4:], "hello"]
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES, vocab_size=len(whole))).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {p: i for i, p in enumerate(whole)}}}))
    model = WritingModel.from_bert(tmp_path, PIECES).eval()
    bert = BertModel.from_pretrained(tmp_path).eval()
    tokens = collate(model.pieces, [["abc", "x"]], [(True, True)])["tokens"]
    spelled = torch.tensor([[whole.index(PIECES[i]) for i in tokens[0].tolist()]])
    torch.testing.assert_close(model.encoder(tokens).last_hidden_state, bert(spelled).last_hidden_state)


def test_units_of_words():
    units = WordPieces(PIECES)
    assert [PIECES[i] for i in units.word("abc")] == ["a", "##b", "##c"]
    assert units.word("ж") == (units.unknown,) and units.word("") == (units.unknown,)
    assert len(units.word("a" * 90)) == 8


def test_the_model_that_ships_writes():
    restorer = Restorer.from_pretrained()
    assert restorer("well mister smith is he in i do not know said the man") == (
        "Well, Mister Smith, is he in? I do not know, said the man."
    )
    plain = "they came to london on a monday in may and mary asked what do you want here nobody answered her"
    text = restorer(plain)
    assert "London" in text and "Mary" in text and "Monday" in text and text.endswith(".")
    assert plain_words(text) == plain.split()
