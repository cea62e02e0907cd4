"""Written text for plain references: case and punctuation of a recogniser's text, words of the reference.

Corpora such as LibriSpeech publish words without case and punctuation. A recogniser that writes (Whisper) hears the
same recording; where the two agree its text is taken as it stands, elsewhere the reference's words wear its case and
punctuation. The words of the result are always those of the reference, except that numbers and titles may be written as
the recogniser writes them ("1984" for "nineteen eighty four", "Mr." for "mister").
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property, lru_cache

from rapidfuzz.distance import Levenshtein

PIECE = re.compile(r"[$£€]?\d+(?:[.,:]\d+)*(?:%|[^\W\d_]+)?|[^\W_]+(?:[.'’][^\W_]+)*")
TITLES = {"mr", "mrs", "ms", "dr", "st", "jr", "sr", "prof", "capt", "col", "gen", "lieut", "lt", "sgt", "rev", "hon"}
ENDS = ".?!…"
I_WORDS = {"i", "i'm", "i'll", "i've", "i'd"}
POOR = 0.4  # share of words heard wrongly from which on marks need both their neighbours heard rightly
NUMBER_WORDS = 8  # words of the reference that may be one number of the text
Stretch = tuple[int, int, int, int]  # first, last, start, stop: words [first:last] are the pieces [start:stop]


@dataclass(frozen=True)
class Piece:
    """A word of a written text and what stands between it and the next word or the end."""

    written: str
    gap: str

    @cached_property
    def plain(self) -> str:
        return plain(self.written)

    @property
    def ends_sentence(self) -> bool:
        title = self.gap.startswith(".") and self.plain in TITLES
        return any(mark in self.gap for mark in ENDS) and not title


@lru_cache(maxsize=100_000)
def plain(word: str) -> str:
    """A word in lower case, without accents and without quotes around it."""
    word = unicodedata.normalize("NFKD", word.replace("’", "'")).lower()
    return "".join(c for c in word if not unicodedata.combining(c)).strip("'")


def is_plain(text: str) -> bool:
    """Whether a text has neither case nor punctuation: all lower or all upper case, no mark that ends a sentence."""
    return text in (text.lower(), text.upper()) and not re.search(r"[.,?!]", text)


def pieces(text: str) -> tuple[str, list[Piece]]:
    """What stands before the first word of a written text, and its words."""
    text = " ".join(text.split())
    found = list(PIECE.finditer(text))
    if not found:
        return "", []
    ends = [match.start() for match in found[1:]] + [len(text)]
    words = [Piece(match.group(), text[match.end() : end]) for match, end in zip(found, ends, strict=True)]
    return text[: found[0].start()], words


def carry_over(reference: str, recognised: str) -> str:
    """The reference's words with the case and punctuation of a recogniser's text.

    Args:
        reference: words in any case; its punctuation, if it has any, is dropped.
        recognised: written text of the same recording.
    """
    before, written = pieces(recognised)
    said = [piece.written for piece in pieces(reference)[1]]
    words = _carried(said, written)
    if not words:
        return ""
    _mend_gaps(words, written)
    _mend_case(words, written)
    text = (before if words[0].place == 0 else "") + "".join(word.text + word.gap for word in words)
    return without_odd_quotes(text).strip()


def cut(references: list[str], recognised: str) -> list[str]:
    """The written text of several utterances heard one after the other, cut where each of them ends.

    Args:
        references: the words of each.
        recognised: one text of all of them.
    """
    written = pieces(recognised)[1]
    words = [pieces(reference)[1] for reference in references]
    owner = [number for number, found in enumerate(words) for _ in found]
    shares: list[list[Piece]] = [[] for _ in references]
    current = 0
    for first, last, start, stop in align([piece.written for found in words for piece in found], written):
        if last > first:
            current = owner[last - 1]
        shares[current] += written[start:stop]  # what has no reference stays with what it followed
    return ["".join(piece.written + piece.gap for piece in share).strip(" -—") for share in shares]


def without_odd_quotes(text: str) -> str:
    """A text without its double quotes where one of them has no partner."""
    odd = text.count('"') % 2 or text.count("“") != text.count("”")
    return re.sub(r'["“”]', "", text) if odd else text


# -- alignment ---------------------------------------------------------------------------------------------


def align(said: list[str], written: list[Piece]) -> list[Stretch]:
    """Stretches (first, last, start, stop), in order: said[first:last] is written[start:stop].

    Either side is one word, or several that are one number or abbreviation of the other side, or none.
    """
    ours, theirs = [plain(word) for word in said], [piece.plain for piece in written]
    stretches: list[Stretch] = []
    here = there = 0  # up to where both sides are settled

    def settle(until: int, other: int) -> None:
        inner = _pair(ours[here:until], written[there:other])
        stretches.extend((here + a, here + b, there + c, there + d) for a, b, c, d in inner)

    for op in Levenshtein.opcodes(ours, theirs):
        if op.tag == "equal":
            settle(op.src_start, op.dest_start)
            length = op.src_end - op.src_start
            stretches += [(op.src_start + k, op.src_start + k + 1, op.dest_start + k, op.dest_start + k + 1)
                          for k in range(length)]  # fmt: skip
            here, there = op.src_end, op.dest_end
    settle(len(ours), len(theirs))
    return stretches


def _pair(ours: list[str], theirs: list[Piece]) -> list[Stretch]:
    """Pair the words of a run in which the two sides differ, likest first, numbers and abbreviations as a whole."""
    costs = {(0, 0): 0.0}
    came_from: dict[tuple[int, int], tuple[int, int]] = {}
    for i in range(len(ours) + 1):
        for j in range(len(theirs) + 1):
            for (k, l), cost in _steps(ours, theirs, i, j):
                if costs[i, j] + cost < costs.get((k, l), float("inf")):
                    costs[k, l] = costs[i, j] + cost
                    came_from[k, l] = (i, j)
    stretches, place = [], (len(ours), len(theirs))
    while place != (0, 0):
        before = came_from[place]
        stretches.append((before[0], place[0], before[1], place[1]))
        place = before
    return stretches[::-1]


def _steps(ours: list[str], theirs: list[Piece], i: int, j: int):
    """Where alignment can go from word i of ours and word j of theirs, and at what cost."""
    if i < len(ours):
        yield (i + 1, j), 1.0
    if j < len(theirs):
        yield (i, j + 1), 1.0
    if i == len(ours) or j == len(theirs):
        return
    yield (i + 1, j + 1), 1.5 - Levenshtein.normalized_similarity(ours[i], theirs[j].plain)
    if _may_stand_for_several(theirs[j]):
        for k in range(i + 1, min(i + NUMBER_WORDS, len(ours)) + 1):
            if same(" ".join(ours[i:k]), theirs[j].written):
                yield (k, j + 1), 0.0


def _may_stand_for_several(piece: Piece) -> bool:
    abbreviation = len(piece.written) > 1 and (piece.written.isupper() or "." in piece.written)
    return abbreviation or piece.plain in TITLES or any(map(str.isdigit, piece.written))


@lru_cache(maxsize=100_000)
def same(said: str, written: str) -> bool:
    """Whether a number, title or abbreviation is a way to write the words."""
    if said.replace(" ", "") == plain(written).replace(".", ""):
        return True
    first, second = (_normaliser()(text).replace(" ", "") for text in (said, written))
    return first == second


def difference(text: str, other: str) -> float:
    """Word errors between two texts over the words of the longer, normalised as for scoring; 0 if both are empty."""
    normalise = _normaliser()
    return Levenshtein.normalized_distance(normalise(text).split(), normalise(other).split())


@lru_cache(maxsize=1)
def _normaliser():
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})  # as asr.score has it


# -- writing -----------------------------------------------------------------------------------------------


@dataclass
class _Word:
    text: str
    gap: str
    place: int | None  # of its piece in the recognised text; None: only the reference has it
    heard: bool = False  # rightly, so the piece is the word


def _carried(said: list[str], written: list[Piece]) -> list[_Word]:
    """The words to write, each with the gap behind its piece; pieces without words leave their marks behind."""
    words: list[_Word] = []
    for first, last, start, stop in align(said, written):
        if first == last:
            if words:
                words[-1].gap = _stronger(words[-1].gap, written[start].gap)
        elif start == stop:
            words.append(_Word(_lower(said[first]), " ", None))
        else:
            piece, ours = written[start], " ".join(map(plain, said[first:last]))
            own = piece.plain == ours or (_may_stand_for_several(piece) and same(ours, piece.written))
            text = piece.written if own else _cased_like(said[first], piece.written)
            words.append(_Word(text, piece.gap, start, own))
    return words


def _mend_gaps(words: list[_Word], written: list[Piece]) -> None:
    """Where neighbours were none in the recognised text, or are not sure to be, one mark and a space stand between."""
    poor = sum(not word.heard for word in words) > POOR * len(words)
    last = max((number for number, word in enumerate(words) if word.place is not None), default=None)
    if last is not None and last < len(words) - 1:  # what closes the text goes behind its last word
        words[-1].gap, words[last].gap = words[last].gap, " "
    for word, following in zip(words, words[1:], strict=False):
        neighbours = word.place is not None and following.place == word.place + 1
        sure = word.heard and following.heard
        if poor and not sure:
            word.gap = " "
        elif not neighbours or word.gap != written[word.place].gap or (not sure and " " not in word.gap):
            word.gap = _mark(word.gap) + " "
    words[-1].gap = _mark(words[-1].gap) if last is None or words[-1].place != len(written) - 1 else words[-1].gap


def _mend_case(words: list[_Word], written: list[Piece]) -> None:
    """Where neighbours were none: a capital if a sentence begins now, none if one began only in the recognised text.

    Words for which a number was heard get theirs here too, and names keep theirs if the text has them elsewhere.
    """
    starts = {0} | {place + 1 for place, piece in enumerate(written) if piece.ends_sentence}
    names = {piece.written for place, piece in enumerate(written) if place not in starts}
    begins, expected = True, 0  # whether a sentence begins here; the piece that would be the neighbour
    for word in words:
        if word.place is None or word.place != expected or not written[word.place].written[0].isalpha():
            if begins:
                word.text = word.text[0].upper() + word.text[1:]
            elif word.place in starts and word.text not in names and word.text[1:] == word.text[1:].lower():
                word.text = _lower(word.text)
        begins = Piece(word.text, word.gap).ends_sentence
        kept = word.place is not None and word.gap == written[word.place].gap
        expected = word.place + 1 if kept else None


def _stronger(gap: str, other: str) -> str:
    """Of two gaps that become one, that with the mark that divides more."""
    order = ["", ",", "—", ";", ":", *ENDS]
    return max(gap, other, key=lambda g: order.index(_mark(g)[:1]) if _mark(g)[:1] in order else 0)


def _mark(gap: str) -> str:
    """The punctuation mark of a gap, without what joins or quotes words."""
    found = re.search(r"[.?!…]+|[,;:—]", gap)
    return found.group() if found else ""


def _lower(word: str) -> str:
    word = word.lower()
    return "I" + word[1:] if plain(word) in I_WORDS else word


def _cased_like(word: str, written: str) -> str:
    return _lower(word)[0].upper() + _lower(word)[1:] if written[0].isupper() else _lower(word)
