"""Words to subtitle cues: lines that are not too long, broken where a reader pauses.

A cue ends at the best place before it is full: after a sentence, else after a comma, else in a pause, else between any
two words (the order of the usual guidelines for subtitles, such as the BBC's, "line breaks").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asr.output.transcript import Word

CUE_PAUSE = 3.0  # seconds; a longer pause between words starts a new cue
CUE_SECONDS = 7.0  # what stays longer on the screen is read twice
PAUSE = 0.3  # seconds between words that count as a break


@dataclass(frozen=True)
class LineLimits:
    """Limits of subtitle lines; without any, a cue is a segment.

    Args:
        max_line_width: characters in a line; longer words stand alone.
        max_line_count: lines in a cue (1); needs max_line_width.
        max_words_per_line: words in a line, each line being a cue of its own; not with max_line_width.

    Raises:
        ValueError: a limit below 1 or a combination that means nothing.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.max_line_count and not self.max_line_width:
            raise ValueError("max_line_count needs max_line_width, which says when a line is full")
        if self.max_words_per_line and self.max_line_width:
            raise ValueError("max_words_per_line and max_line_width exclude each other")

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())


USUAL = LineLimits(max_line_width=42, max_line_count=2)  # what most broadcasters and film subtitles keep to


@dataclass(frozen=True)
class Cue:
    """Text on the screen from `start` to `end` (seconds); lines are separated by newlines."""

    start: float
    end: float
    text: str


def word_cues(words: Sequence[Word], limits: LineLimits) -> Iterator[Cue]:
    """Cues of the words of a segment."""
    first = 0
    while first < len(words):
        last = _cue_end(words, first, limits)
        lines = _lines(words[first:last], limits)
        yield Cue(words[first].start, words[last - 1].end, "\n".join(lines))
        first = last


def _cue_end(words: Sequence[Word], first: int, limits: LineLimits) -> int:
    """Index behind the last word of the cue that begins with a word."""
    last = first + 1
    while last < len(words) and _fits(words[first : last + 1], limits):
        if words[last].start - words[last - 1].end > CUE_PAUSE:
            return last
        last += 1
    if last == len(words) or limits.max_words_per_line:
        return last
    # Not in the first half: a cue of one word before a full one reads badly.
    choices = range(first + (last - first + 1) // 2, last + 1)
    return max(choices, key=lambda end: (_break(words, end), end))


def _fits(words: Sequence[Word], limits: LineLimits) -> bool:
    if limits.max_words_per_line:
        return len(words) <= limits.max_words_per_line
    if words[-1].end - words[0].start > CUE_SECONDS:
        return False
    return len(_filled(words, limits.max_line_width or 10**9)) <= (limits.max_line_count or 1)


def _break(words: Sequence[Word], end: int) -> int:
    """How good a place before word `end` is to break: 3 behind a sentence, 2 a comma, 1 a pause, 0 none of these."""
    sign = words[end - 1].text.rstrip("\"')")[-1:]
    if sign in tuple(".?!"):
        return 3
    if sign in tuple(",;:"):
        return 2
    return int(end < len(words) and words[end].start - words[end - 1].end >= PAUSE)


def _filled(words: Sequence[Word], width: int) -> list[int]:
    """Index behind the last word of each line when lines are filled one after the other."""
    ends, length = [], 0
    for i, word in enumerate(words):
        if i and length + 1 + len(word.text) > width:
            ends.append(i)
            length = len(word.text)
        else:
            length += len(word.text) + (i > 0 and length > 0)
    return [*ends, len(words)]


def _lines(words: Sequence[Word], limits: LineLimits) -> list[str]:
    """The lines of a cue; two lines are broken where a reader pauses, or about in the middle."""
    width = limits.max_line_width or 10**9
    ends = _filled(words, width)
    if len(ends) == 2:
        ends = [_middle(words, width), len(words)]
    starts = [0, *ends]
    return [" ".join(w.text for w in words[a:b]) for a, b in zip(starts, ends, strict=False)]


def _middle(words: Sequence[Word], width: int) -> int:
    """Where to break a cue of two lines."""

    def length(part: Sequence[Word]) -> int:
        return len(" ".join(word.text for word in part))

    possible = [i for i in range(1, len(words)) if max(length(words[:i]), length(words[i:])) <= width]
    if not possible:  # a word is wider than a line
        return _filled(words, width)[0]
    return max(possible, key=lambda i: (_break(words, i), -abs(length(words[:i]) - length(words[i:]))))
