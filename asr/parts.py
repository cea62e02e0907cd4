"""The parts of a recogniser and what passes between them.

    waves ─► SpeechEncoder ─► Encoded ─► CTCBranch ─► Listened ─► TextDecoder ─► Decoded

Each part is our own or a pretrained one behind the same protocol. `asr.recogniser.SpeechRecogniser` joins them, and
`asr.loading` knows which folder has which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.ctc.beam import Hypothesis


@dataclass
class Encoded:
    """What the encoder makes of a batch.

    Attributes:
        hidden: [batch, frames, width], what text decoders attend to.
        lengths: [batch] frames of each utterance.
        mixed: [batch, frames, width] of all layers, where a CTC branch reads more than `hidden`.
    """

    hidden: Tensor
    lengths: Tensor
    mixed: Tensor | None = None


class SpeechEncoder(Protocol):
    """Waves to frames, features included."""

    sampling_rate: int  # Hz, of the waves it takes

    def __call__(self, waves: list[np.ndarray]) -> Encoded:
        """Frames of waves [samples].

        Raises:
            ValueError: a wave is longer than the encoder hears at once.
        """


class CTCBranch(Protocol):
    """Frames to log-probabilities over its own units, the blank at index 0."""

    tokenizer: object  # decode(ids) -> text, starts_word(id), blank_id 0; encode(text) -> ids where it can spell
    hop_seconds: float | None  # seconds to a frame of its own; None: what the length of each wave comes to

    def __call__(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Log-probabilities [batch, frames, units] and their lengths [batch]."""


@dataclass
class Listened:
    """A batch after encoder and CTC branch: hidden [batch, frames, width] with its lengths [batch], and for each
    utterance the CTC log-probabilities [frames, units]."""

    hidden: Tensor
    lengths: Tensor
    posteriors: list[Tensor]

    @classmethod
    def of(
        cls, hidden: Tensor, lengths: Tensor, log_probabilities: Tensor, steps: Tensor | None = None
    ) -> Listened:
        """From padded CTC log-probabilities [batch, frames, units], which are cut to `steps` (None: to `lengths`)."""
        frames = log_probabilities.detach().cpu()
        steps = lengths if steps is None else steps
        return cls(hidden, lengths, [f[:n] for f, n in zip(frames, steps.tolist(), strict=True)])

    def padded_posteriors(self) -> Tensor:
        """Log-probabilities [batch, frames, units] beside `hidden`, padded with zeros."""
        return pad_sequence(self.posteriors, batch_first=True).to(self.hidden.device)

    def row(self, i: int) -> Listened:
        """One utterance of the batch."""
        length = self.lengths[i : i + 1]
        return Listened(self.hidden[i : i + 1, : int(length)], length, [self.posteriors[i]])


class Vocabulary(Protocol):
    """The tokens that a text decoder writes."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def starts_word(self, token: int) -> bool: ...

    def piece(self, token: int) -> str:
        """The text of one token, a space before it where a word starts."""


@dataclass
class Decoded:
    """Tokens of each utterance, the probability of each, passes [batch] and positions computed [batch]."""

    tokens: list[list[int]]
    confidences: list[list[float]]
    passes: Tensor
    token_forwards: Tensor
    nbest: list[list[Hypothesis]] | None = None  # of a decoder that chooses among texts

    @classmethod
    def chosen(cls, nbest: list[list[Hypothesis]], passes: Tensor, token_forwards: Tensor) -> Decoded:
        """The first of each list."""
        return cls([texts[0].tokens for texts in nbest], [[] for _ in nbest], passes, token_forwards, nbest)

    @classmethod
    def joined(cls, parts: list[Decoded]) -> Decoded:
        """A batch of utterances that were decoded one by one."""
        return cls(
            [tokens for part in parts for tokens in part.tokens],
            [sure for part in parts for sure in part.confidences],
            torch.cat([part.passes for part in parts]),
            torch.cat([part.token_forwards for part in parts]),
        )


class TextDecoder(Protocol):
    """Text from what encoder and CTC branch made of a batch."""

    vocabulary: Vocabulary

    def __call__(self, heard: Listened) -> Decoded:
        """Tokens of `vocabulary` with confidences (of a search: hypotheses), an utterance each.

        Raises:
            ValueError: something that the decoder needs is missing.
        """
