"""Written sentences as tags in a few arrays: to be read again and again, by many processes at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from dlm.tags import Tagged, tagged

LINES = 20_000  # sentences that one process takes at a time


@dataclass
class TaggedLines:
    """The tags (`dlm.tags.Tagged`) of sentences, one behind the other.

    Args:
        vocabulary: all different words.
        words: index in the vocabulary of each word of the text, int32 [words].
        marks, cases: as in `Tagged`, uint8 [words].
        starts: first word of each sentence and the number of words, int64 [sentences + 1].
    """

    vocabulary: list[str]
    words: np.ndarray
    marks: np.ndarray
    cases: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, sentences: Sequence[str], processes: int = 1) -> TaggedLines:
        """The tags of sentences; tagging takes a core about a minute for each 10 million words."""
        known: dict[str, int] = {}
        columns: tuple[list, ...] = ([], [], [], [])
        chunks = [sentences[first : first + LINES] for first in range(0, len(sentences), LINES)]
        with get_context("spawn").Pool(processes) if processes > 1 else nullcontext() as pool:
            for words, *rest in pool.imap(_columns, chunks) if pool else map(_columns, chunks):
                ids = (known.setdefault(word, len(known)) for word in words)
                for column, values in zip(columns, (np.fromiter(ids, np.int32, len(words)), *rest), strict=True):
                    column.append(values)
        words, marks, cases, counts = (np.concatenate(c) if c else np.zeros(0, np.uint8) for c in columns)
        return cls(list(known), words, marks, cases, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))

    def __len__(self) -> int:
        """Sentences."""
        return len(self.starts) - 1

    def __getitem__(self, place: slice) -> Tagged:
        """The tags of words, by their place in the whole text."""
        words = [self.vocabulary[number] for number in self.words[place].tolist()]
        return Tagged(words, self.marks[place].tolist(), self.cases[place].tolist())


def _columns(sentences: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """The words of sentences, their marks and cases, and how many words each sentence has."""
    found = [tagged(sentence) for sentence in sentences]
    return (
        [word for text in found for word in text.words],
        _small(mark for text in found for mark in text.marks),
        _small(case for text in found for case in text.cases),
        np.array([len(text.words) for text in found], np.int32),
    )


def _small(values: Iterator[int]) -> np.ndarray:
    return np.fromiter(values, np.uint8)
