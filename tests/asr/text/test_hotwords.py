"""Hotwords: what a text earns against the sum over its names, and searches that are led by them."""

import pytest
import torch

from asr.ctc.beam import BeamOptions, prefix_beam
from asr.text.hotwords import ROOT, Hotwords, parse_hotwords
from asr.text.tokenizer import Tokenizer

SENTENCES = ["the cat sat on the mat", "Ann and Anna sat", "New York is new", "a cat is a cat"] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(SENTENCES, 60, written=True)


def earned(hotwords, tokens):
    state, total = ROOT, 0.0
    for token in tokens:
        state, gain = hotwords.step(state, token)
        total += gain
    return total + hotwords.ending(state)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("the cat sat", ["cat"]),
        ("the cats sat", []),  # another word that only begins so
        ("cat", ["cat"]),
        ("Cat, sat", ["Cat"]),
        ("Ann sat", ["Ann"]),
        ("Anna sat", []),
        ("New York is", ["New York"]),
        ("New mat", []),  # broken off
        ("New New York", ["New York"]),
        ("New cat", ["cat"]),
        ("the mat is so", []),
    ],
)
def test_a_text_earns_its_whole_names_and_nothing_else(tokenizer, text, names):
    hotwords = Hotwords(["cat", "Ann", "New York"], tokenizer, 1.5)
    expected = 1.5 * sum(len(tokenizer.encode(name)) for name in names)
    assert earned(hotwords, tokenizer.encode(text)) == pytest.approx(expected)


def test_a_name_within_a_longer_one_keeps_its_gain(tokenizer):
    hotwords = Hotwords(["New", "New York is"], tokenizer, 1.0)
    assert earned(hotwords, tokenizer.encode("New York and")) == len(tokenizer.encode("New"))
    assert earned(hotwords, tokenizer.encode("New York is")) == len(tokenizer.encode("New York is"))


def test_gains_of_all_tokens_are_those_of_single_steps(tokenizer):
    hotwords = Hotwords(["cat", "Ann", "New York"], tokenizer, 2.0)
    for state in range(len(hotwords.children)):
        gains = hotwords.gains(state, tokenizer.end_id)
        for token in range(4, len(tokenizer)):
            assert gains[token] == pytest.approx(hotwords.step(state, token)[1])
        assert gains[tokenizer.end_id] == pytest.approx(hotwords.ending(state))


def test_the_beam_writes_the_expected_name_where_the_sound_is_undecided(tokenizer):
    said, other = tokenizer.encode("Ann sat"), tokenizer.encode("and sat")
    frames = torch.full((2 * max(len(said), len(other)), len(tokenizer)), -12.0)
    frames[1::2, 0] = 0.0
    for tokens, height in ((said, -1.0), (other, 0.0)):
        for i, token in enumerate(tokens):
            frames[2 * i, token] = height
    frames[2 * min(len(said), len(other)) :: 2, 0] = 0.0  # the longer one may also end
    posteriors, options = frames.log_softmax(-1), BeamOptions(lm_weight=0, token_bonus=0)
    plain = prefix_beam(posteriors, tokenizer, options)[0].text
    led = prefix_beam(posteriors, tokenizer, options, hotwords=Hotwords(["Ann"], tokenizer, 3.0))[0].text
    assert "Ann" not in plain and "Ann" in led


def test_lists_of_names(tmp_path, tokenizer):
    assert parse_hotwords(" Hepzibah ,Moby  Dick,, Hepzibah") == ("Hepzibah", "Moby Dick")
    (tmp_path / "names.txt").write_text("Hepzibah\n\nMoby Dick\n")
    assert parse_hotwords(f"@{tmp_path / 'names.txt'}") == ("Hepzibah", "Moby Dick")
    with pytest.raises(ValueError, match="no names there"):
        parse_hotwords(" , ")
    with pytest.raises(ValueError, match="nothing of"):
        Hotwords(["\u4e2d"], tokenizer, 1.0)
