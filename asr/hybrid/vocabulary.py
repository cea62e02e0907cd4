"""The decoder's vocabulary: the tokens of Whisper's that English needs, behind four special ones, frequent ones first.

Whisper's byte-level pairs are kept where they occur in a corpus, with all pairs that they are merged from, so the
smaller vocabulary spells every text (rare words in more pieces) and a kept token keeps its embedding.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from asr.dllm.canvas import Draft, draft_words
from asr.dllm.loop import SpecialTokens
from asr.text.tokenizer import SPECIAL, Tokenizer


class WrittenTokenizer:
    """Byte-level pairs over written English: capitals, punctuation and digits, any Unicode.

    A text is encoded with a space in front, as Whisper does; `blank_id`, `mask_id`, `end_id` and `null_id` are those
    of `asr.text.tokenizer.Tokenizer`.
    """

    blank_id, mask_id, end_id, null_id = range(len(SPECIAL))
    null = null_id
    word_mark = "\u0120"  # how byte-level pairs write a space

    def __init__(self, definition: str):
        """`definition` is the JSON text of a byte-level `tokenizers.Tokenizer` whose first ids are `SPECIAL`."""
        from tokenizers import Tokenizer as Backend

        self._backend = Backend.from_str(definition)
        self.pieces = [self._backend.id_to_token(i) for i in range(self._backend.get_vocab_size())]

    @property
    def definition(self) -> str:
        """JSON text from which the tokenizer can be made again."""
        return self._backend.to_str()

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self._backend.encode(" " + text.strip(), add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores."""
        return [e.ids for e in self._backend.encode_batch([" " + t.strip() for t in texts], add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are skipped."""
        return self._backend.decode([i for i in ids if i >= len(SPECIAL)]).strip()

    def special(self, slots: bool) -> SpecialTokens:
        """Ids of a canvas in these tokens; without empty slots every mask must become a token."""
        never = (self.blank_id, self.mask_id)
        return SpecialTokens() if slots else SpecialTokens(null=None, never=(*never, self.null_id))

    def starts_word(self, token: int) -> bool:
        return self.pieces[token].startswith(self.word_mark)

    def piece(self, token: int) -> str:
        """The text of one token, a space before it where a word starts."""
        return "" if token < len(SPECIAL) else self._backend.decode([token])

    def translate(self, draft: Draft, units: Tokenizer) -> Draft:
        """A draft in CTC units in these tokens; a token is as sure as its word, and stands where that starts."""
        tokens, confidences, times = [], [], []
        for text, sure, time in draft_words(draft, units):
            word = self.encode(text)
            tokens += word
            confidences += [sure] * len(word)
            times += [time] * len(word)
        return Draft(tokens, confidences, times, draft.frames)


def cut_vocabulary(whisper: str, sentences: Iterable[str], at_least: int = 2) -> tuple[WrittenTokenizer, list[int]]:
    """The smaller vocabulary, the most frequent tokens first, and Whisper's id of each of them (-1 for special ones).

    Args:
        whisper: JSON text of Whisper's `tokenizer.json`.
        sentences: written English.
        at_least: how often a token must occur to be kept. Whisper has never spelt a word otherwise than in its own
            tokens: each one that is missing is a word that it gets wrong.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    definition = json.loads(whisper)
    vocabulary = definition["model"]["vocab"]
    merges = definition["model"]["merges"] = whole_merges(definition["model"])
    parents = {"".join(pair): pair for pair in reversed(merges)}
    source = Backend.from_str(json.dumps(definition))
    counts: Counter[str] = Counter()
    for encoding in source.encode_batch([" " + s.strip() for s in sentences], add_special_tokens=False):
        counts.update(encoding.tokens)
    kept = {token for token in vocabulary if token not in parents and len(token) == 1}
    waiting = [token for token, count in counts.items() if count >= at_least and token in vocabulary]
    while waiting:
        token = waiting.pop()
        if token not in kept:
            kept.add(token)
            waiting += parents[token]
    ordered = sorted(kept, key=lambda token: (-counts[token], vocabulary[token]))
    ids = {token: number for number, token in enumerate([*SPECIAL, *ordered])}
    backend = Backend(models.BPE(ids, [pair for pair in merges if "".join(pair) in kept]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return WrittenTokenizer(backend.to_str()), [-1] * len(SPECIAL) + [vocabulary[token] for token in ordered]


def whole_merges(model: dict) -> list[tuple[str, str]]:
    """The merges of byte-level pairs, in order, with those that a conversion has lost.

    Tokens of two characters can only be made from these. Where the first merge of a multilingual Whisper is missing
    ("\u0120" and "t"), every word that begins with t is split.
    """
    vocabulary = model["vocab"]
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    made = {"".join(pair) for pair in merges}
    lost = [tuple(token) for token in vocabulary if len(token) == 2 and token not in made]
    return sorted(merges + lost, key=lambda pair: vocabulary["".join(pair)]) if lost else merges
