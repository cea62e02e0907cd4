"""What a correction model reads and writes: characters, or the recogniser's sub-word units."""

from __future__ import annotations

from collections.abc import Iterable

from asr.text.tokenizer import SPECIAL, Tokenizer, normalise_text

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"


class Characters:
    """Normalised English by characters, with the interface and the special ids of `asr.text.tokenizer.Tokenizer`."""

    blank_id, end_id = Tokenizer.blank_id, Tokenizer.end_id
    definition = "characters"

    def __init__(self):
        self._ids = {c: i for i, c in enumerate(ALPHABET, start=len(SPECIAL))}

    def __len__(self) -> int:
        return len(SPECIAL) + len(ALPHABET)

    def encode(self, text: str) -> list[int]:
        """Ids of the normalised text."""
        return [self._ids[c] for c in normalise_text(text)]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special ones are skipped, spaces are cleaned up."""
        return " ".join("".join(ALPHABET[i - len(SPECIAL)] for i in ids if i >= len(SPECIAL)).split())


def load_units(definition: str) -> Characters | Tokenizer:
    """Units of their definition: "characters" or the JSON text of a `Tokenizer`."""
    return Characters() if definition == Characters.definition else Tokenizer(definition)
