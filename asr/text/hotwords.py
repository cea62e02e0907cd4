"""Names that a recogniser should expect: a prefix tree over their tokens, whose scores a search adds.

Every token that goes on with a name earns `strength`; a name that breaks off, or that turns out to be the beginning of
another word, gives back what it earned. So a search finds names that its model alone would have pruned, and whoever
does not say one gains nothing (contextual biasing: Zhao et al. 2019, "Shallow-fusion end-to-end contextual biasing",
Sec. 3; deep tries: Le et al. 2021, arXiv 2104.02194, Sec. 2.1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from asr.text.tokenizer import Tokenizer

ROOT = 0
STRENGTH = {"ar": 2.0, "beam": 2.0}  # nats a token, by decoder


class Hotwords:
    """Words and phrases in the tokens of a vocabulary; a state is the node that a text has reached, at first `ROOT`.

    Args:
        phrases: as they should be written; each also with a capital in front.
        vocabulary: `encode`, `piece` and a length; `asr.parts.Vocabulary`.
        strength: nats that a token of a name earns.

    Raises:
        ValueError: the vocabulary cannot spell texts, or a phrase has nothing that it can spell.
    """

    def __init__(self, phrases: Iterable[str], vocabulary, strength: float):
        self.strength = strength
        self.children: list[dict[int, int]] = [{}]
        self.depth, self.secured, self.suffix, self.is_phrase = [0], [0], [ROOT], [False]
        if not hasattr(vocabulary, "encode"):
            raise ValueError("hotwords: this model's vocabulary does not spell texts, so it cannot be told names")
        self.closes = closing_tokens(vocabulary)
        for phrase in phrases:
            for text in spellings(phrase, vocabulary):
                self._add(vocabulary.encode(text))
        self._link()

    def _add(self, tokens: list[int]) -> None:
        node = ROOT
        for token in tokens:
            if token not in self.children[node]:
                self.children[node][token] = len(self.children)
                self.children.append({})
                self.depth.append(self.depth[node] + 1)
                self.secured.append(0)
                self.suffix.append(ROOT)
                self.is_phrase.append(False)
            node = self.children[node][token]
        self.is_phrase[node] = True

    def _link(self) -> None:
        """Note for each node the longest other beginning that its end is (Aho & Corasick 1975), and how many of its
        tokens belong to a shorter phrase that is whole, and so is not lost."""
        waiting = deque([ROOT])
        while waiting:  # nodes nearer to the root first
            node = waiting.popleft()
            for token, child in self.children[node].items():
                self.suffix[child] = self._begun(self.suffix[node], token) if node != ROOT else ROOT
                whole = self.is_phrase[node] and self.closes[token]
                self.secured[child] = self.depth[node] if whole else self.secured[node]
                waiting.append(child)

    def _begun(self, node: int, token: int) -> int:
        """The longest beginning of a phrase that a token makes with the end of a node."""
        while token not in self.children[node] and node != ROOT:
            node = self.suffix[node]
        return self.children[node].get(token, ROOT)

    def _is_whole(self, state: int, closed: bool) -> bool:
        return self.is_phrase[state] and closed

    def step(self, state: int, token: int) -> tuple[int, float]:
        """The state behind one more token, and what the token earns; negative where a name breaks off."""
        if token in self.children[state]:
            return self.children[state][token], self.strength
        closed = bool(self.closes[token])
        begun = self._begun(ROOT if self._is_whole(state, closed) else self.suffix[state], token)
        return begun, self.strength * (self.depth[begun] - self._lost(state, closed))

    def ending(self, state: int) -> float:
        """What the end of the text earns: 0, or what a name that is not whole gives back."""
        return -self.strength * self._lost(state, True)

    def gains(self, state: int, end: int) -> np.ndarray:
        """What each token [vocabulary] would earn in a state; `end` ends the text."""
        lost = np.where(self.closes, self._lost(state, True), self._lost(state, False))
        gains = -self.strength * lost.astype(np.float32)
        nodes = [state]
        while nodes[-1] != ROOT:
            nodes.append(self.suffix[nodes[-1]])
        for token in {token for node in nodes for token in self.children[node]}:
            gains[token] = self.step(state, token)[1]
        gains[end] = self.ending(state)
        return gains

    def _lost(self, state: int, closed: bool) -> int:
        """Tokens whose gain is given back when the name does not go on."""
        return 0 if self._is_whole(state, closed) else self.depth[state] - self.secured[state]


def parse_hotwords(text: str) -> tuple[str, ...]:
    """The names of "Hepzibah, Moby Dick", or those of "@names.txt", one a line.

    Raises:
        ValueError: there are none.
        OSError: the file cannot be read.
    """
    parts = Path(text[1:]).read_text(encoding="utf-8-sig").splitlines() if text.startswith("@") else text.split(",")
    names = tuple(dict.fromkeys(" ".join(part.split()) for part in parts if part.strip()))
    if not names:
        raise ValueError(f"hotwords {text!r}: no names there; separate them by commas, or give @FILE, one a line")
    return names


@lru_cache(maxsize=4)
def closing_tokens(vocabulary) -> np.ndarray:
    """Tokens [vocabulary] before which a word is over: they start the next one, or are a sign, or end the text."""
    pieces = (vocabulary.piece(token) for token in range(len(vocabulary)))
    return np.array([not piece[:1].isalnum() for piece in pieces])


def spellings(phrase: str, vocabulary) -> list[str]:
    """The phrase as a vocabulary writes it, and as it stands at the start of a sentence.

    Raises:
        ValueError: nothing is left of it.
    """
    text = " ".join(phrase.split())
    texts = [text, text[:1].upper() + text[1:]]
    if isinstance(vocabulary, Tokenizer):
        texts = [vocabulary.spell(text) for text in texts]
    if not texts[0]:
        raise ValueError(f"hotwords: nothing of {phrase!r} is in this model's alphabet")
    return list(dict.fromkeys(texts))
