"""A learned channel that misspells plain text the way a recogniser does.

From pairs of hypothesis and reference it counts what stretches of the reference became, each with one character of
context on both sides: "(a)ugh( )" -> "(a)f( )". Plain text is then corrupted by the same replacements at a drawn rate.
Hand-made noise teaches a correction model little (arXiv 2405.15216, Sec. 5); this supplements synthesised hypotheses
where there is far more text than speech.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np
from rapidfuzz.distance import Levenshtein

LONGEST = 12  # characters of a replaced stretch, context included
GAP = 2  # errors with no more equal characters than this between them are one stretch


class ConfusionChannel:
    """Replacements with their probabilities: stretch of text -> (probability, outcomes, their cumulative shares)."""

    def __init__(self, table: dict[str, tuple[float, list[str], np.ndarray]]):
        self.table = table
        self.lengths = sorted({len(stretch) for stretch in table}, reverse=True)

    @classmethod
    def estimate(cls, pairs: Iterable[tuple[str, str]], longest: int = LONGEST) -> ConfusionChannel:
        """Count replacements in pairs (hypothesis, reference).

        Raises:
            ValueError: no pair has an error to learn from.
        """
        pairs = list(pairs)
        outcomes: dict[str, Counter] = defaultdict(Counter)
        for hypothesis, reference in pairs:
            for stretch, outcome in replacements(hypothesis, reference):
                if len(stretch) <= longest:
                    outcomes[stretch][outcome] += 1
        if not outcomes:
            raise ValueError(f"none of {len(pairs)} pairs has an error: give hypotheses with mistakes")
        seen = _occurrences((reference for _, reference in pairs), outcomes)
        table = {}
        for stretch, counts in outcomes.items():
            errors = counts.total()
            shares = np.cumsum(list(counts.values())) / errors
            table[stretch] = (errors / max(errors, seen[stretch]), list(counts), shares)
        return cls(table)

    def corrupt(self, text: str, rate: float, rng: np.random.Generator) -> str:
        """`text` with replacements; rate 1 makes about as many mistakes as the pairs had, 0 none."""
        padded, written, position = f" {text} ", [], 0
        chances = rng.random(len(padded))
        while position < len(padded):
            chance = chances[position]
            for length in self.lengths:
                stretch = padded[position : position + length]
                entry = self.table.get(stretch) if len(stretch) == length else None
                if entry is None:
                    continue
                chance -= rate * entry[0]
                if chance < 0:
                    outcome = entry[1][int(np.searchsorted(entry[2], rng.random()))]
                    # The right context stays in the text: it may be the left one of the next mistake.
                    written.append(outcome[:-1])
                    position += length - 1
                    break
            else:
                written.append(padded[position])
                position += 1
        return " ".join("".join(written).split())


def replacements(hypothesis: str, reference: str) -> list[tuple[str, str]]:
    """What stretches of the reference became, one shared character on either side; spaces stand at the ends."""
    source, target = f" {reference} ", f" {hypothesis} "
    spans: list[list[int]] = []
    for operation in Levenshtein.opcodes(source, target):
        if operation.tag == "equal":
            continue
        span = [operation.src_start, operation.src_end, operation.dest_start, operation.dest_end]
        if spans and span[0] - spans[-1][1] <= GAP:
            spans[-1][1], spans[-1][3] = span[1], span[3]
        else:
            spans.append(span)
    return [
        (source[a - 1 : b + 1], target[c - 1 : d + 1])
        for a, b, c, d in spans
        if a > 0 and c > 0 and b < len(source) and d < len(target)
    ]


def _occurrences(texts: Iterable[str], stretches: dict) -> Counter:
    """How often each stretch stands in the texts."""
    lengths = sorted({len(s) for s in stretches})
    seen: Counter = Counter()
    for text in texts:
        padded = f" {text} "
        for length in lengths:
            windows = (padded[i : i + length] for i in range(len(padded) - length + 1))
            seen.update(w for w in windows if w in stretches)
    return seen
