"""An n-gram language model over the shared vocabulary, small enough to ship.

Interpolated modified Kneser-Ney estimation (Chen & Goodman 1999, Sec. 3), entirely in numpy: n-grams are packed
into 64-bit integers, so sorting them puts the continuations of a context next to each other. The model
answers one question, `distribution(context)`: log-probabilities of every next token at once, which is what a
beam search asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

LOG_STEP = 12.0 / 255  # log-probabilities are stored in 256 steps down to -12
PROTECTED = 1e-12


class NGram:
    """Back-off n-gram model; build it with `estimate`, read it with `load`.

    Args:
        keys: for each order 1..n the sorted packed n-grams, uint64.
        log_probabilities: for each order the log-probability of each n-gram, float32.
        log_backoffs: for each order below n the log back-off weight of each n-gram as a context.
        vocabulary: number of tokens, special ones included.
        end_id: the token that opens and closes a sentence.
    """

    def __init__(
        self,
        keys: list[np.ndarray],
        log_probabilities: list[np.ndarray],
        log_backoffs: list[np.ndarray],
        vocabulary: int,
        end_id: int,
    ):
        self.keys, self.log_probabilities, self.log_backoffs = keys, log_probabilities, log_backoffs
        self.vocabulary, self.end_id = vocabulary, end_id
        self.bits = _bits(vocabulary)
        self.distribution = lru_cache(maxsize=20_000)(self._distribution)

    def __getstate__(self) -> dict:
        """All but the cache, which cannot go to another process."""
        return {name: value for name, value in vars(self).items() if name != "distribution"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.distribution = lru_cache(maxsize=20_000)(self._distribution)

    @property
    def order(self) -> int:
        return len(self.keys)

    # -- estimation ----------------------------------------------------------------------------------------

    @classmethod
    def estimate(
        cls,
        sentences: Iterable[list[int]],
        vocabulary: int,
        end_id: int,
        order: int = 6,
        min_counts: tuple[int, ...] = (1, 1, 1, 2, 3, 3),
    ) -> NGram:
        """Estimate from token sequences.

        Args:
            sentences: token ids of each sentence, without markers.
            vocabulary: number of tokens.
            end_id: token that marks both ends of a sentence.
            order: longest n-gram; order x bits of the vocabulary must fit into 64 bits.
            min_counts: n-grams of each order seen less often are left to the back-off.

        Raises:
            ValueError: the order is too long for the vocabulary, or there is no text.
        """
        bits = _bits(vocabulary)
        if order * bits > 63:
            raise ValueError(
                f"order {order} of {vocabulary} tokens needs {order * bits} bits: at most 63 fit, lower the order"
            )
        stream = np.concatenate(
            [np.array([end_id, *s, end_id], dtype=np.uint64) for s in sentences] or [np.zeros(0, np.uint64)]
        )
        if not len(stream):
            raise ValueError("no sentences to estimate an n-gram model from: give at least one")
        counts = [_count(stream, n, bits, end_id) for n in range(1, order + 1)]
        for n in range(order - 1, 0, -1):
            counts[n - 1] = _continuation_counts(counts[n - 1], counts[n][0], n, bits, end_id)

        model = cls([], [], [], vocabulary, end_id)
        for n, (keys, count) in enumerate(counts, start=1):
            model._add_order(n, keys, count, min_counts[min(n, len(min_counts)) - 1])
        return model

    def _add_order(self, n: int, keys: np.ndarray, counts: np.ndarray, min_count: int) -> None:
        """Discount, interpolate with the order below, prune, and set the back-off weights of the contexts."""
        contexts, start = np.unique(keys >> np.uint64(self.bits), return_index=True)
        owner = np.repeat(np.arange(len(contexts)), np.diff([*start, len(keys)]))
        totals = np.add.reduceat(counts, start).astype(np.float64)
        discount = _discounts(counts)[np.minimum(counts, 3)]
        freed = np.add.reduceat(discount, start) / totals
        lower = (
            self._score(n - 1, keys & np.uint64((1 << (self.bits * (n - 1))) - 1))
            if n > 1
            else np.full(len(keys), 1 / self.vocabulary)
        )
        probability = (counts - discount) / totals[owner] + freed[owner] * lower

        keep = counts >= min_count
        keys, probability, lower, owner = keys[keep], probability[keep], lower[keep], owner[keep]
        if n > 1:  # what the kept continuations leave over goes to the shorter context
            left = 1 - np.bincount(owner, probability, len(contexts))
            lower_left = 1 - np.bincount(owner, lower, len(contexts))
            backoff = np.maximum(left, PROTECTED) / np.maximum(lower_left, PROTECTED)
            self._set_backoffs(n - 1, contexts, backoff)
        else:
            missing = np.setdiff1d(np.arange(self.vocabulary, dtype=np.uint64), keys)
            floor = freed[0] / self.vocabulary
            order = np.argsort(np.concatenate([keys, missing]))
            probability = np.concatenate([probability, np.full(len(missing), floor)])[order]
            keys = np.concatenate([keys, missing])[order]
        self.keys.append(keys)
        self.log_probabilities.append(np.log(np.maximum(probability, PROTECTED)).astype(np.float32))

    def _set_backoffs(self, n: int, contexts: np.ndarray, backoff: np.ndarray) -> None:
        values = np.zeros(len(self.keys[n - 1]), np.float32)
        position = np.searchsorted(self.keys[n - 1], contexts).clip(max=len(self.keys[n - 1]) - 1)
        found = self.keys[n - 1][position] == contexts
        values[position[found]] = np.log(backoff[found])
        self.log_backoffs.append(values)

    def _score(self, n: int, keys: np.ndarray) -> np.ndarray:
        """Probabilities of packed n-grams under the orders estimated so far."""
        table = self.keys[n - 1]
        position = np.searchsorted(table, keys).clip(max=len(table) - 1)
        found = table[position] == keys
        result = np.exp(self.log_probabilities[n - 1][position].astype(np.float64))
        if not found.all():
            missing = keys[~found]
            context, contexts = missing >> np.uint64(self.bits), self.keys[n - 2]
            at = np.searchsorted(contexts, context).clip(max=len(contexts) - 1)
            weight = np.where(contexts[at] == context, np.exp(self.log_backoffs[n - 2][at]), 1.0)
            result[~found] = weight * self._score(n - 1, missing & np.uint64((1 << (self.bits * (n - 1))) - 1))
        return result

    # -- use -----------------------------------------------------------------------------------------------

    def _distribution(self, context: tuple[int, ...]) -> np.ndarray:
        """Log-probabilities [vocabulary] of the token after `context` (only its last order - 1 tokens count)."""
        result = self.log_probabilities[0].copy()
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        for n in range(1, len(context) + 1):
            key = 0
            for token in context[-n:]:
                key = key << self.bits | token
            at = np.searchsorted(self.keys[n - 1], np.uint64(key))
            if at == len(self.keys[n - 1]) or int(self.keys[n - 1][at]) != key:
                break  # an unseen context has no longer one either
            first, last = np.searchsorted(
                self.keys[n], np.array([key << self.bits, (key + 1) << self.bits], dtype=np.uint64)
            )
            result += self.log_backoffs[n - 1][at]
            tokens = (self.keys[n][first:last] & np.uint64((1 << self.bits) - 1)).astype(np.int64)
            result[tokens] = self.log_probabilities[n][first:last]
        return result

    def start(self) -> tuple[int, ...]:
        """The context at the start of a sentence."""
        return (self.end_id,)

    def perplexity(self, sentences: Iterable[list[int]]) -> float:
        """Perplexity per token, sentence ends included."""
        total, number = 0.0, 0
        for sentence in sentences:
            context = self.start()
            for token in [*sentence, self.end_id]:
                total += float(self.distribution(context)[token])
                context = (*context, token)[-(self.order - 1) :]
                number += 1
        return float(np.exp(-total / number))

    # -- storage -------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write a compressed .npz with log-probabilities in 8 bits."""
        arrays = {
            "vocabulary": np.array(self.vocabulary),
            "end_id": np.array(self.end_id),
            "order": np.array(self.order),
        }
        for n, keys in enumerate(self.keys, start=1):
            for place in range(n):  # one column a position: sorted columns compress well
                column = keys >> np.uint64(self.bits * (n - 1 - place)) & np.uint64((1 << self.bits) - 1)
                arrays[f"tokens_{n}_{place}"] = column.astype(np.uint8 if self.bits <= 8 else np.uint16)
            arrays[f"probability_{n}"] = _quantise(self.log_probabilities[n - 1])
            if n < self.order:
                arrays[f"backoff_{n}"] = self.log_backoffs[n - 1].astype(np.float16)
        with open(path, "wb") as file:  # a path would get the suffix .npz if it has another
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> NGram:
        """Read a model written by `save`."""
        with np.load(path) as file:
            vocabulary, order = int(file["vocabulary"]), int(file["order"])
            bits, keys, probabilities, backoffs = _bits(vocabulary), [], [], []
            for n in range(1, order + 1):
                key = np.zeros(len(file[f"tokens_{n}_0"]), np.uint64)
                for place in range(n):
                    key = key << np.uint64(bits) | file[f"tokens_{n}_{place}"].astype(np.uint64)
                keys.append(key)
                probabilities.append(-file[f"probability_{n}"].astype(np.float32) * LOG_STEP)
                if n < order:
                    backoffs.append(file[f"backoff_{n}"].astype(np.float32))
            return cls(keys, probabilities, backoffs, vocabulary, int(file["end_id"]))


def _bits(vocabulary: int) -> int:
    return max(1, (vocabulary - 1).bit_length())


def _quantise(log_probabilities: np.ndarray) -> np.ndarray:
    return np.round(-log_probabilities / LOG_STEP).clip(0, 255).astype(np.uint8)


def _count(stream: np.ndarray, n: int, bits: int, end_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted packed n-grams of the stream and their counts, none across a sentence boundary."""
    length = len(stream) - n + 1
    packed, crosses = np.zeros(length, np.uint64), np.zeros(length, bool)
    for place in range(n):
        token = stream[place : place + length]
        packed = packed << np.uint64(bits) | token
        if place < n - 1:  # an end marker may stand first (it opens) or last (it closes), not inside
            crosses |= (token == end_id) & ((place > 0) | (stream[place + 1 : place + 1 + length] == end_id))
    if n == 1:  # the opening marker is given, never predicted
        closes = np.concatenate([[False], stream[:-1] != end_id])
        crosses = (stream == end_id) & ~closes
    keys, counts = np.unique(packed[~crosses], return_counts=True)
    return keys, counts


def _continuation_counts(own: tuple[np.ndarray, np.ndarray], longer: np.ndarray, n: int, bits: int, end_id: int):
    """Kneser-Ney counts: before how many different tokens an n-gram was seen; sentence starts keep their own."""
    keys, counts = own
    suffixes, continuations = np.unique(longer & np.uint64((1 << (bits * n)) - 1), return_counts=True)
    position = np.searchsorted(suffixes, keys).clip(max=max(len(suffixes) - 1, 0))
    found = suffixes[position] == keys if len(suffixes) else np.zeros(len(keys), bool)
    starts = keys >> np.uint64(bits * (n - 1)) == np.uint64(end_id)
    replaced = np.where(found, continuations[position], counts) if len(suffixes) else counts
    return keys, np.where(starts & (n > 1), counts, replaced)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Modified Kneser-Ney discounts for counts 0, 1, 2 and 3 or more."""
    n1, n2, n3, n4 = (max(1, int((counts == c).sum())) for c in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    raw = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    return np.clip(raw, 0.0, [0.0, 0.95, 1.9, 2.9])
