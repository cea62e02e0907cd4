"""Case and punctuation of recognised text beside a written reference: what word error rates do not see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from dlm.tags import ENDS, LOWER, MARKS, tagged

SHOWN = (".", ",", "?")  # marks with an F1 of their own


@dataclass(frozen=True)
class Word:
    """A word in lower case, whether it begins with a capital, and the mark behind it ("" for none)."""

    plain: str
    capital: bool
    mark: str

    @property
    def ends(self) -> bool:
        return MARKS.index(self.mark) in ENDS


def words(text: str) -> list[Word]:
    """The words of a written text; the full stop of a title is no mark."""
    found = tagged(text)
    columns = zip(found.words, found.cases, found.marks, strict=True)
    return [Word(word, case != LOWER, MARKS[mark]) for word, case, mark in columns]


def is_written(text: str) -> bool:
    """Whether a text has both small letters and capitals."""
    return text != text.lower() and text != text.upper()


def writing(references: list[str], hypotheses: list[str]) -> dict | None:
    """How well sentence starts, marks and capitals are written, words paired by their alignment.

    Only utterances whose reference is written count; None where there is none.

    Returns:
        "utterances"; "starts", the words that begin a sentence in the reference and were recognised or replaced, and
        "capitalised", the share of them with a capital; "f1" of each mark, of "ends" (any mark that ends a sentence)
        and of "capitals" (words that begin with one), None for what occurs nowhere.
    """
    chosen = [(words(r), words(h)) for r, h in zip(references, hypotheses, strict=True) if is_written(r)]
    if not chosen:
        return None
    right, wanted, given = Counter(), Counter(), Counter()
    capitals: list[bool] = []
    for said, heard in chosen:
        wanted.update(kind for word in said for kind in _kinds(word))
        given.update(kind for word in heard for kind in _kinds(word))
        starts = [i == 0 or said[i - 1].ends for i in range(len(said))]
        for i, j in _pairs(said, heard):
            right.update(_kinds(said[i]) & _kinds(heard[j]))
            if starts[i] and said[i].plain[0].isalpha():
                capitals.append(heard[j].capital)
    kinds = (*SHOWN, "ends", "capitals")
    f1 = {k: 2 * right[k] / (wanted[k] + given[k]) if wanted[k] + given[k] else None for k in kinds}
    share = sum(capitals) / len(capitals) if capitals else None
    return {"utterances": len(chosen), "starts": len(capitals), "capitalised": share, "f1": f1}


def _kinds(word: Word) -> set[str]:
    """What of a word is counted."""
    return {word.mark} | ({"ends"} if word.ends else set()) | ({"capitals"} if word.capital else set())


def _pairs(said: list[Word], heard: list[Word]) -> Iterator[tuple[int, int]]:
    """Indices of words that stand for each other."""
    for op in Levenshtein.opcodes([word.plain for word in said], [word.plain for word in heard]):
        if op.tag in ("equal", "replace"):
            yield from zip(range(op.src_start, op.src_end), range(op.dest_start, op.dest_end), strict=False)
