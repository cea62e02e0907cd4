"""Restore case and punctuation of plain text: `Restorer.from_pretrained()("mister smith is he in")`.

All words stay as they are: the model only tags them (`dlm.tags`). Texts that are written already, and those of other
scripts, pass through with a remark. Long texts are read in overlapping windows, so their length has no limit.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch

from asr.text.written import is_plain
from dlm.corrector import Correction, Hypotheses, texts_of
from dlm.tags import ENDS, FULL_STOP, MARKS, tagged, written
from dlm.writing import WritingModel, collate

LONGEST = 250  # words of a window: the encoder has room for twice as many pieces
WORD = re.compile(r"[^\W_]")
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
        biases = torch.tensor([self.options.biases.get(mark, 0.0) for mark in MARKS])
        self._biases = biases.to(model.mark.weight.device)

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
        if not is_plain(text):
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

    @torch.inference_mode()
    def tags(self, texts: Sequence[list[str]], batch_size: int = 32) -> list[tuple[list[int], list[int]]]:
        """Marks and cases of the words of each text; its last word ends a sentence."""
        marks = [[0] * len(words) for words in texts]
        cases: list[list[list[int]]] = [[[]] * len(words) for words in texts]
        windows = sorted(self._windows(texts), key=lambda window: window[2] - window[1])
        for first in range(0, len(windows), batch_size):
            batch = windows[first : first + batch_size]
            rows = [texts[t][start:stop] for t, start, stop in batch]
            ends = [(start == 0, stop == len(texts[t])) for t, start, stop in batch]
            inputs = collate(self.model.pieces, rows, ends)
            scores, case_scores = self.model({k: v.to(self._biases.device) for k, v in inputs.items()})
            chosen, looks = self._choose(scores, rows, ends), case_scores.argmax(-1).tolist()
            place = 0
            for (t, start, stop), (opens, closes) in zip(batch, ends, strict=True):
                skip = 0 if opens else self.options.margin
                until = stop - start - (0 if closes else self.options.margin)
                marks[t][start + skip : start + until] = chosen[place + skip : place + until]
                cases[t][start + skip : start + until] = looks[place + skip : place + until]
                place += stop - start
        return [(found, list(_follow(found, looks))) for found, looks in zip(marks, cases, strict=True)]

    def _choose(self, scores: torch.Tensor, rows: list[list[str]], ends: list[tuple[bool, bool]]) -> list[int]:
        """The mark behind each word of a batch; behind the last one of a text, the likeliest that ends a sentence."""
        scores = scores + self._biases
        lasts = torch.tensor([len(row) for row in rows]).cumsum(0) - 1
        closing = lasts[torch.tensor([closes for _, closes in ends])].to(scores.device)
        best = scores.argmax(-1)
        best[closing] = torch.tensor(ENDS, device=scores.device)[scores[closing][:, list(ENDS)].argmax(-1)]
        return best.tolist()

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


def _follow(marks: list[int], cases: list[list[int]]) -> Iterable[int]:
    """The case of each word after the mark that was chosen before it."""
    before = FULL_STOP
    for mark, by_mark in zip(marks, cases, strict=True):
        yield by_mark[before]
        before = mark


def plain_words(text: str) -> list[str]:
    """The words of a written text as a recogniser without case and punctuation would give them."""
    return tagged(text).words
