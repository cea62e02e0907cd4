"""Written text as its plain words and two tags for each: how it is capitalised and which mark stands behind it.

"Well, is he in the U.S.?" is well|is|he|in|the|us with the cases capital, lower ... upper and a comma behind the first
word, a question mark behind the last. Tags cannot change words, so what restores them can do no harm to what was heard.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from asr.text.written import TITLES, pieces, plain

MARKS = ("", ",", ".", "?", "!", ";", ":", "—")
ENDS = tuple(MARKS.index(mark) for mark in ".?!")
LOWER, CAPITAL, UPPER = range(3)
CASES = ("lower", "capital", "upper")
FULL_STOP = MARKS.index(".")
ABBREVIATIONS = {"etc", "vs", "viz", "cf", "eg", "ie", "al", "vol", "fig", "inc", "ltd", "co"}
GAP_MARK = re.compile(r"[,.?!;:]|—|–|--|…")
DASHES = ("—", "–", "--", "…")


@dataclass
class Tagged:
    """A text: plain words, the index in `MARKS` of what stands behind each, the index in `CASES` of its case."""

    words: list[str]
    marks: list[int]
    cases: list[int]


def tagged(text: str) -> Tagged:
    """The plain words of a written text and their tags; quotes, brackets and hyphens are left out.

    Titles and abbreviations lose their full stop, and what trails off ("...") inside a sentence has a dash.
    """
    found = pieces(text)[1]
    result = Tagged([], [], [])
    for number, piece in enumerate(found):
        word = plain(piece.written)
        if not any(map(str.isdigit, word)):
            word = word.replace(".", "")
        if not word:
            continue
        gap = piece.gap
        short = piece.plain in TITLES | ABBREVIATIONS or "." in piece.written
        if short and gap.startswith(".") and number < len(found) - 1:
            gap = gap[1:]
        follows = found[number + 1].written if number < len(found) - 1 else "A"
        result.words.append(word)
        result.marks.append(_mark(gap, follows[0].islower()))
        result.cases.append(case_of(piece.written))
    return result


def _mark(gap: str, goes_on: bool) -> int:
    """The mark of a gap; `goes_on` where a small letter follows it."""
    found = GAP_MARK.search(gap.replace("...", "…"))
    if found is None:
        return 0
    mark = found.group()
    if mark in DASHES:
        closing = re.search(r"[.?!]", gap.replace("...", "…")[found.end() :])
        if closing:
            return MARKS.index(closing.group())
        return MARKS.index("—") if goes_on or mark != "…" else FULL_STOP
    return MARKS.index(mark)


@lru_cache(maxsize=100_000)
def case_of(word: str) -> int:
    """The index in `CASES` of a written word."""
    letters = [c for c in word if c.isalpha()]
    if not letters or not letters[0].isupper():
        return LOWER
    return UPPER if len(letters) > 1 and all(c.isupper() for c in letters) else CAPITAL


def written(words: list[str], marks: list[int], cases: list[int], forms: dict[str, str]) -> list[str]:
    """Plain words with their tags applied.

    Args:
        forms: how a word is written where a capital first letter is not all, "mcdonald": "McDonald".
    """
    return [_cased(word, case, forms) + MARKS[mark] for word, mark, case in zip(words, marks, cases, strict=True)]


def _cased(word: str, case: int, forms: dict[str, str]) -> str:
    if case == UPPER:
        return word.upper()
    if case == LOWER:
        return word
    return forms.get(word) or word[:1].upper() + word[1:]


def written_forms(texts: Iterable[str], least: int = 10, share: float = 0.6) -> dict[str, str]:
    """Words that are mostly written otherwise than with a capital and small letters: McDonald, O'Neill, Mr.

    Args:
        texts: written sentences.
        least: how often such a form has to occur.
        share: of the word's capitalised occurrences that it has to have.
    """
    counts: dict[str, Counter] = defaultdict(Counter)
    for text in texts:
        for piece in pieces(text)[1]:
            if case_of(piece.written) == CAPITAL:
                stop = piece.plain in TITLES and piece.gap.startswith(".")
                counts[piece.plain][piece.written.replace("’", "'") + "." * stop] += 1
    forms = {}
    for word, seen in counts.items():
        form, count = seen.most_common(1)[0]
        if count >= least and count >= share * seen.total() and form != word[:1].upper() + word[1:] and "." not in word:
            forms[word] = form
    return dict(sorted(forms.items()))
