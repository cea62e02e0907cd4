"""What a correction did to the words: which became right, which became wrong."""

from __future__ import annotations

import numpy as np


def right_words(reference: str, hypothesis: str) -> np.ndarray:
    """For each word of the reference whether the alignment finds it in the hypothesis."""
    from rapidfuzz.distance import Levenshtein

    right = np.zeros(len(reference.split()), bool)
    for block in Levenshtein.opcodes(reference.split(), hypothesis.split()):
        if block.tag == "equal":
            right[block.src_start : block.src_end] = True
    return right


def fixed_and_broken(references: list[str], before: list[str], after: list[str]) -> tuple[int, int, int]:
    """Words of the references that became right, words that became wrong, and words that were right before."""
    fixed = broken = right = 0
    for reference, old, new in zip(references, before, after, strict=True):
        was, now = right_words(reference, old), right_words(reference, new)
        fixed += int((~was & now).sum())
        broken += int((was & ~now).sum())
        right += int(was.sum())
    return fixed, broken, right
