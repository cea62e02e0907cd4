"""Texts of tables in the characters that our Conformers write: a-z, apostrophe and space."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

from asr.console.program import complain
from asr.text.tokenizer import normalise_text
from recipes.data.corpora import Recording

SPOKEN_SIGNS = set("&%$€£@+=")  # words that normalisation would drop


def spelled(recordings: list[Recording], table: str | Path) -> list[Recording]:
    """Recordings with normalised texts, those whose words are not written down left out; both are said.

    Raises:
        ValueError: none is left.
    """
    texts = normalised([recording.text for recording in recordings], table)
    return [replace(r, text=text) for r, text in zip(recordings, texts, strict=True) if text is not None]


def normalised(texts: list[str], name: str | Path) -> list[str | None]:
    """Normalised texts, None for those whose words are not written down; how many of both is said.

    Raises:
        ValueError: none is left.
    """
    results = [None if loses_words(text) else normalise_text(text) for text in texts]
    changed = [(text, new) for text, new in zip(texts, results, strict=True) if new is not None and new != text]
    refused = [text for text, new in zip(texts, results, strict=True) if new is None]
    if changed:
        before, after = (repr(text[:40]) for text in changed[0])
        complain(f"{name}: {len(changed)} of {len(texts)} texts were normalised, {before} is now {after}")
    if refused:
        rule = "as they hold digits, signs or letters whose words are not known (write them as words)"
        complain(f"{name}: {len(refused)} of {len(texts)} texts are left out, {rule}: {refused[0][:40]!r}")
    if texts and len(refused) == len(texts):
        raise ValueError(f"{name}: no text is left that can be written in a-z, apostrophe and space")
    return results


def loses_words(text: str) -> bool:
    """Whether normalisation would drop something that was said: digits, other alphabets, signs such as &."""
    plain = unicodedata.normalize("NFKD", text)
    lost = any(c in SPOKEN_SIGNS or (c.isalnum() and not c.isascii()) or c.isdigit() for c in plain)
    return lost or bool(text.strip()) and not normalise_text(text)
