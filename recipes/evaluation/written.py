"""Case and punctuation of recognised text beside a written reference: what word error rates do not see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

MARKS = (".", ",", "?")
ENDS = (".", "?", "!")
TITLES = {"mr", "mrs", "ms", "dr", "st", "jr", "sr", "prof"}  # their full stop ends nothing


@dataclass(frozen=True)
class Word:
    """A word in lower case, whether it begins with a capital, and the mark behind it ("" for none)."""

    plain: str
    capital: bool
    mark: str


def words(text: str) -> list[Word]:
    """The words of a written text; marks that stand alone belong to the word before."""
    found: list[Word] = []
    for token in text.split():
        core = re.search(r"\w.*\w|\w", token)
        tail = token[core.end() :] if core else token
        mark = next((c for c in tail if c in (*MARKS, *ENDS)), "")
        if core:
            plain = core.group().lower()
            found.append(Word(plain, core.group()[0].isupper(), "" if plain in TITLES else mark))
        elif mark and found and not found[-1].mark:
            found[-1] = Word(found[-1].plain, found[-1].capital, mark)
    return found


def is_written(text: str) -> bool:
    """Whether a text has both small letters and capitals."""
    return text != text.lower() and text != text.upper()


def writing(references: list[str], hypotheses: list[str]) -> dict | None:
    """How well sentence starts and marks are written, words paired by their alignment.

    Only utterances whose reference is written count; None where there is none.

    Returns:
        "utterances"; "starts", the words that begin a sentence in the reference and were recognised or replaced, and
        "capitalised", the share of them with a capital; "f1" of each mark, None for one that occurs nowhere.
    """
    chosen = [(words(r), words(h)) for r, h in zip(references, hypotheses, strict=True) if is_written(r)]
    if not chosen:
        return None
    right, wanted, given = Counter(), Counter(), Counter()
    capitals: list[bool] = []
    for said, heard in chosen:
        wanted.update(word.mark for word in said)
        given.update(word.mark for word in heard)
        starts = [i == 0 or said[i - 1].mark in ENDS for i in range(len(said))]
        for i, j in _pairs(said, heard):
            right[said[i].mark] += said[i].mark == heard[j].mark
            if starts[i] and said[i].plain[0].isalpha():
                capitals.append(heard[j].capital)
    f1 = {m: 2 * right[m] / (wanted[m] + given[m]) if wanted[m] + given[m] else None for m in MARKS}
    share = sum(capitals) / len(capitals) if capitals else None
    return {"utterances": len(chosen), "starts": len(capitals), "capitalised": share, "f1": f1}


def _pairs(said: list[Word], heard: list[Word]) -> Iterator[tuple[int, int]]:
    """Indices of words that stand for each other."""
    for op in Levenshtein.opcodes([word.plain for word in said], [word.plain for word in heard]):
        if op.tag in ("equal", "replace"):
            yield from zip(range(op.src_start, op.src_end), range(op.dest_start, op.dest_end), strict=False)
