"""Restore case and punctuation of plain text: `Restorer.from_pretrained()("mister smith is he in")`.

All words stay as they are: the model only tags them (`dlm.tags`). Texts that are written already, and those of other
scripts, pass through with a remark. Long texts are read in overlapping windows, so their length has no limit.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path

import torch
from torch import Tensor

from dlm.corrector import Correction, Hypotheses, texts_of
from dlm.tags import ENDS, MARKS, tagged, written
from dlm.writing import WritingModel, collate, mark_before

LONGEST = 250  # words of a window: the encoder has room for twice as many pieces
WORD = re.compile(r"[^\W_]")
PRONOUN = re.compile(r"\bI\b")  # some recognisers write it with its capital and nothing else
MARK = re.compile(r"[.,?!](\s|$)")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestorerOptions:
    """How tags are chosen.

    Args:
        biases: added to the log-probability of a mark; those that are given none are written as probable.
        window: words that the model sees at once.
        margin: words at either end of a window that are left to its neighbour.
    """

    biases: dict[str, float] = field(default_factory=lambda: {"—": -100.0})
    window: int = 120
    margin: int = 20

    def __post_init__(self):
        if not 0 <= 2 * self.margin < self.window <= LONGEST:
            rule = f"must be more than twice the margin {self.margin} and at most {LONGEST}"
            raise ValueError(f"window {self.window} {rule}")
        if strange := [mark for mark in self.biases if mark not in MARKS]:
            raise ValueError(f"biases name {strange}; the marks are {[mark for mark in MARKS if mark]}")


class Restorer:
    """A writing model and how it is used; see the module docstring.

    Args:
        model: writing model.
        options: how to choose (default: as tuned for the model).
    """

    def __init__(self, model: WritingModel, options: RestorerOptions | None = None):
        self.model = model.eval()
        self.options = options or RestorerOptions(**model.options)
        self._remarked = False
        self._biases = torch.tensor([self.options.biases.get(mark, 0.0) for mark in MARKS])

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, device: str = "cpu", **options) -> Restorer:
        """Load from a folder or a Hub id; None is the model that ships. `options` override the model's tuned ones.

        Raises:
            OSError: there is no such model.
        """
        model = WritingModel.from_pretrained(name).to(device)
        return cls(model, RestorerOptions(**{**model.options, **options}))

    def __call__(self, hypotheses: Hypotheses, **_) -> str:
        """The written text of one utterance, a text or an n-best list of which the best counts."""
        texts = texts_of(hypotheses)
        return self.correct(texts[:1])[0].text if texts else ""

    def correct(self, lines: Sequence[str], batch_size: int = 32) -> list[Correction]:
        """Each line written as a text of its own, in order."""
        words = [self._words(line) for line in lines]
        results = self._written(words, batch_size)
        return [
            Correction(line, " ".join(result) if result else line) for line, result in zip(lines, results, strict=True)
        ]

    def running(self, parts: Sequence[str], batch_size: int = 32, sure: object = None) -> list[Correction]:
        """Parts of one text, such as segments or subtitles, written as it goes on from one to the next.

        `sure` is what correctors of words ask for; no word changes here.
        """
        counts = [len(part.split()) for part in parts]
        (whole,) = self._written([self._words(" ".join(parts))], batch_size)
        if not whole:
            return [Correction(part, part) for part in parts]
        rest = iter(whole)
        return [
            Correction(part, " ".join(islice(rest, count)) if count else part)
            for part, count in zip(parts, counts, strict=True)
        ]

    def write(self, parts: Sequence[str]) -> list[str]:
        """The texts of `running`."""
        return [correction.text for correction in self.running(parts)]

    def _words(self, text: str) -> list[str]:
        """The plain words to write; none where the text must pass through, with a warning."""
        if not any(c.isalnum() for c in text):
            return []
        letters = [c for c in text if c.isalpha()]
        if 2 * sum(c.isascii() for c in letters) < len(letters):
            log.warning("passed through: the model writes English, not the letters of: %.40s", text)
            return []
        if MARK.search(text) or not (text.isupper() or PRONOUN.sub("i", text) == text.lower()):
            self._remark_written(text)
            return []
        return text.lower().split()

    def _remark_written(self, text: str) -> None:
        """Said once: whole files may be written already."""
        if not self._remarked:
            log.warning("passed through, as all that has capitals or punctuation already: %.40s", text)
        self._remarked = True

    def _written(self, texts: list[list[str]], batch_size: int) -> list[list[str]]:
        """The words of texts with their tags applied; a token that is no word has none."""
        spoken = [[word for word in text if WORD.search(word)] for text in texts]
        results = []
        for text, words, (marks, cases) in zip(texts, spoken, self.tags(spoken, batch_size), strict=True):
            rest = iter(written(words, marks, cases, self.model.forms))
            results.append([next(rest) if WORD.search(word) else word for word in text])
        return results

    # -- tags ------------------------------------------------------------------------------------------------

    def tags(self, texts: Sequence[list[str]], batch_size: int = 32) -> list[tuple[list[int], list[int]]]:
        """Marks and cases of the words of each text; its last word ends a sentence."""
        return [self.choose(*scores) if len(scores[0]) else ([], []) for scores in self.scores(texts, batch_size)]

    @torch.inference_mode()
    def scores(self, texts: Sequence[list[str]], batch_size: int = 32) -> list[tuple[Tensor, Tensor]]:
        """Of each text log-probabilities of the marks [words, marks], and cases [words, marks] by the mark before."""
        shape = (sum(map(len, texts)), len(MARKS))
        marks, cases = torch.zeros(shape), torch.zeros(shape, dtype=torch.uint8)
        firsts = [0, *accumulate(map(len, texts))]
        windows = sorted(self._windows(texts), key=lambda window: window[2] - window[1])
        for first in range(0, len(windows), batch_size):
            batch = windows[first : first + batch_size]
            ends = [(start == 0, stop == len(texts[t])) for t, start, stop in batch]
            inputs = collate(self.model.pieces, [texts[t][start:stop] for t, start, stop in batch], ends)
            seen, looks = self.model({k: v.to(self.model.mark.weight.device) for k, v in inputs.items()})
            seen, looks, place = seen.cpu(), looks.argmax(-1).cpu(), 0
            for (t, start, stop), (opens, closes) in zip(batch, ends, strict=True):
                skip, until = 0 if opens else self.options.margin, stop - start - (0 if closes else self.options.margin)
                here = slice(firsts[t] + start + skip, firsts[t] + start + until)
                marks[here], cases[here] = (column[place + skip : place + until] for column in (seen, looks))
                place += stop - start
        lengths = list(map(len, texts))
        return list(zip(marks.split(lengths), cases.split(lengths), strict=True))

    def choose(self, marks: Tensor, cases: Tensor) -> tuple[list[int], list[int]]:
        """The likeliest mark behind each word of a text, behind its last one of those that end a sentence; the cases.

        Arguments as `scores` gives them.
        """
        biased = marks + self._biases
        best = biased.argmax(-1)
        best[-1] = ENDS[int(biased[-1, list(ENDS)].argmax())]
        before = torch.tensor(mark_before(best.tolist(), opens=True))
        return best.tolist(), cases.gather(1, before[:, None])[:, 0].tolist()

    def _windows(self, texts: Sequence[list[str]]) -> Iterable[tuple[int, int, int]]:
        """(text, first word, word after the last) of windows; neighbours share both their margins."""
        window, margin = self.options.window, self.options.margin
        for number, words in enumerate(texts):
            start = 0
            while words:
                stop = min(start + window, len(words))
                yield number, start, stop
                if stop == len(words):
                    break
                start += window - 2 * margin


def plain_words(text: str) -> list[str]:
    """The words of a written text as a recogniser without case and punctuation would give them."""
    return tagged(text).words
