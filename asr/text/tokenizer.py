"""Text normalisation and the shared sub-word vocabulary.

One vocabulary serves the CTC head, the denoiser and the autoregressive twin, so that a CTC draft can be laid
on the denoiser's canvas without going through text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

WORD_MARK = "\u2581"  # stands before the first piece of each word, as in SentencePiece
BLANK, MASK, END, NULL = "<blank>", "<mask>", "<end>", "<null>"
SPECIAL = (BLANK, MASK, END, NULL)
NORMALISED = "'abcdefghijklmnopqrstuvwxyz"
WRITTEN = NORMALISED + "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!-%$"
SIGNS = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2014": ", ", "\u2013": "-", ";": ",", ":": ","})


def normalise_text(text: str) -> str:
    """Lower case, accents removed, everything but a-z, apostrophe and space turned into a space."""
    text = unicodedata.normalize("NFKD", text.replace("\u2019", "'"))
    text = "".join(c for c in text if not unicodedata.combining(c)).lower()
    text = re.sub(r"[^a-z' ]+", " ", text)
    return " ".join(word for word in text.split() if word.strip("'"))


def written_text(text: str) -> str:
    """Written English in the signs of the written vocabulary: dashes and colons become commas, quotes go."""
    text = unicodedata.normalize("NFKD", text.translate(SIGNS)).encode("ascii", "ignore").decode()
    return re.sub(r" +(?=[.,?!])", "", " ".join(re.sub(rf"[^{re.escape(WRITTEN)} ]", " ", text).split()))


class Tokenizer:
    """Byte-pair encoding over normalised English, with four special tokens in front.

    `blank_id` 0 is CTC's blank; `mask_id`, `end_id` and `null_id` belong to the denoiser's canvas.
    """

    blank_id, mask_id, end_id, null_id = range(len(SPECIAL))

    def __init__(self, definition: str):
        """`definition` is the JSON text of a `tokenizers.Tokenizer`."""
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_str(definition)
        self.pieces = [self._backend.id_to_token(i) for i in range(self._backend.get_vocab_size())]
        self._characters = {c: i + 1 for i, c in enumerate(" 'abcdefghijklmnopqrstuvwxyz")}

    @classmethod
    def train(cls, sentences: Iterable[str], vocabulary: int = 256, written: bool = False) -> Tokenizer:
        """Learn merges from sentences; `vocabulary` counts the special tokens too.

        Args:
            sentences: normalised (`normalise_text`) or, with `written`, written English (`written_text`).
            vocabulary: how many units.
            written: keep capitals, digits and punctuation.
        """
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, pre_tokenizers, trainers

        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_MARK)
        alphabet = [*(WRITTEN if written else NORMALISED), WORD_MARK]
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        backend.train_from_iterator(sentences, trainer)
        return cls(backend.to_str())

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        return cls(Path(path).read_text(encoding="utf-8-sig"))

    @property
    def definition(self) -> str:
        """JSON text from which the tokenizer can be made again."""
        return json.dumps(json.loads(self._backend.to_str()), ensure_ascii=False)

    @property
    def written(self) -> bool:
        """Whether texts are `written_text`, with capitals, rather than normalised."""
        return any(piece != piece.lower() for piece in self.pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Token ids of normalised text."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores."""
        return [encoding.ids for encoding in self._backend.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are skipped."""
        pieces = (self.pieces[i] for i in ids if i >= len(SPECIAL))
        return " ".join("".join(pieces).replace(WORD_MARK, " ").split())  # a mark of its own may stand before a word

    def starts_word(self, token: int) -> bool:
        return self.pieces[token].startswith(WORD_MARK)

    def piece(self, token: int) -> str:
        """The text of one token, a space before it where a word starts."""
        return self.pieces[token].replace(WORD_MARK, " ")

    def spell(self, text: str) -> str:
        """The text in the characters of this vocabulary: written or normalised."""
        return written_text(text) if self.written else normalise_text(text)

    def encode_characters(self, text: str) -> list[int]:
        """Character ids (1-28, 0 is blank) of the normalised text, for the intermediate CTC loss."""
        return [self._characters[c] for c in normalise_text(text)]
