"""Decoders in a loop: a text that only repeats itself ends."""

from types import SimpleNamespace

import pytest
import torch

from asr.ar.greedy import END, decode_greedily, decode_speculatively, repeated


@pytest.mark.parametrize(
    ("tokens", "again"),
    [
        ([], 0),
        ([5, 6] + [7] * 11, 0),  # "no, no, no" may be said
        ([5, 6] + [7] * 12, 11),
        ([5, 6, 7] * 4, 9),
        ([9, 5, 6, 7] + [5, 6, 7] * 3, 9),
        ([5, 6, 7] * 4 + [8], 0),  # it went on
        ([5, 6, 7] * 3, 0),
        (list(range(4, 12)) * 4, 24),
        (list(range(4, 13)) * 4, 0),  # whole sentences are not looked at
    ],
)
def test_what_repeats_at_the_end(tokens, again):
    assert repeated(tokens) == again


class Cache:
    length = 0

    def crop(self, length):
        self.length = length

    def rows(self, index):
        """All rows are alike."""


class Chanting:
    """Writes a text, then its last tokens for ever, or ends."""

    most_tokens = 400

    def __init__(self, text, chant):
        self.text, self.chant = text, chant

    def new_cache(self):
        return Cache()

    def extend(self, tokens, speech, cache):
        logits = torch.zeros(*tokens.shape, 30)
        for i in range(tokens.shape[1]):
            place = cache.length + i - len(self.text)
            chant = self.chant[place % len(self.chant)] if self.chant else END
            logits[:, i, self.text[place] if place < 0 else chant] = 50.0
        cache.length += tokens.shape[1]
        return logits


@pytest.mark.parametrize(("chant", "expected"), [([9, 10, 11], [5, 6, 7, 9, 10, 11]), ([], [5, 6, 7])])
def test_a_looping_text_ends_after_its_phrase(chant, expected):
    speech = SimpleNamespace(frames=torch.tensor([500]))
    model = Chanting([5, 6, 7], chant)
    greedy, checked = decode_greedily(model, speech), decode_speculatively(model, speech, [5, 6, 7, 9, 10])
    assert greedy.tokens == checked.tokens == [expected]
    assert len(greedy.confidences[0]) == len(checked.confidences[0]) == len(expected)
    assert greedy.passes[0] < 20
