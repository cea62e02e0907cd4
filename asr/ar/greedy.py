"""The autoregressive twin: token by token with a cache, with the CTC draft as speculation, and as a judge of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.dllm.caches import TextCache
from asr.parts import Decoded
from asr.text.tokenizer import Tokenizer

START, END = Tokenizer.null_id, Tokenizer.end_id  # the twin has no empty slots: their token starts the text
NEVER = (Tokenizer.blank_id, Tokenizer.mask_id, START)
IGNORED = -100  # target of padding
TOKENS_PER_FRAME = 0.6  # no one speaks faster; bounds the length of a text
LOOKAHEAD = 2  # tokens of a draft that are verified at once: of more, most are computed in vain
LOOP = 8  # tokens of the longest phrase that is looked for at the end of a text, again and again


@dataclass(frozen=True)
class Marks:
    """Token ids: what a text starts from, what ends it, and what no text has."""

    start: int = START
    end: int = END
    never: Sequence[int] = NEVER


class Writes(Protocol):
    """A model that writes token by token. One whose tokens are not the recogniser's units has `marks` and `tokens`."""

    most_tokens: int  # that fit behind the start of the text

    def remember(self, hidden: Tensor, lengths: Tensor) -> object:
        """The speech: `frames` [batch], `rows(index)`."""

    def extend(self, tokens: Tensor, speech: object, cache: TextCache) -> Tensor:
        """Logits [batch, n, vocabulary] after n more tokens [batch, n]; the cache grows by them."""

    def denoise(self, canvas: Tensor, speech: object) -> Tensor:
        """Logits of the next token behind every position of texts [batch, n] of one utterance."""

    # A model that has a faster way than `extend` to what greedy decoding needs offers
    # likeliest(tokens, speech, cache, never), see `SteppingDecoder`.


def marks_of(model: Writes) -> Marks:
    return getattr(model, "marks", None) or Marks()


def new_cache(model: Writes) -> TextCache:
    """Something to remember the text in: keys and values of our own decoders, or what a model brings."""
    return model.new_cache() if hasattr(model, "new_cache") else TextCache()


def longest(frames: int) -> int:
    """Most tokens that so many encoder frames may give."""
    return 8 + int(TOKENS_PER_FRAME * frames)


def repeated(tokens: list[int]) -> int:
    """Tokens at the end of a text that only repeat those before: a decoder in a loop never finds out by itself.

    It hears half a word, say, and goes on with it. A phrase must come four times and fill twelve tokens.
    """
    for length in range(1, LOOP + 1):
        times = max(4, -(-12 // length))
        if len(tokens) >= times * length and tokens[-length:] * times == tokens[-times * length :]:
            return (times - 1) * length
    return 0


@torch.inference_mode()
def decode_greedily(model: Writes, speech: object) -> Decoded:
    """The most probable next token until the end of the text; finished utterances leave the batch."""
    batch = len(speech.frames)
    limits = [min(longest(int(f)), model.most_tokens) for f in speech.frames]
    written, sures, passes = [[] for _ in range(batch)], [[] for _ in range(batch)], [0] * batch
    rows, cache, marks = torch.arange(batch), new_cache(model), marks_of(model)
    running = [True] * batch
    tokens = torch.full((batch, 1), marks.start, device=speech.frames.device)
    while any(running):
        if sum(running) <= len(rows) // 2:  # copying what stays costs more than a few rows too many
            index = torch.tensor([i for i, row in enumerate(rows.tolist()) if running[row]])
            rows, speech, tokens = rows[index], speech.rows(index), tokens[index]
            cache.rows(index)
        best, found = (part[:, -1] for part in next_tokens(model, tokens, speech, cache, marks.never))
        for row, token, sure in zip(rows.tolist(), best.tolist(), found.tolist(), strict=True):
            if not running[row]:
                continue
            passes[row] += 1
            if token == marks.end or len(written[row]) >= limits[row]:
                running[row] = False
                continue
            written[row].append(token)
            sures[row].append(sure)
            if again := repeated(written[row]):
                running[row] = False
                del written[row][-again:], sures[row][-again:]
        tokens = best[:, None]
    return Decoded(written, sures, torch.tensor(passes), torch.tensor(passes))


@torch.inference_mode()
def decode_speculatively(model: Writes, speech: object, draft: list[int]) -> Decoded:
    """Greedy decoding of one utterance that verifies a draft many tokens at a time (self-speculative decoding).

    A pass checks the next tokens of the draft; up to the first disagreement they are accepted, there the model's own
    token is taken, and the draft goes on behind it. The text is that of `decode_greedily`.
    """
    cache, tokens, confidences, marks = new_cache(model), [], [], marks_of(model)
    limit, passes, computed = min(longest(int(speech.frames[0])), model.most_tokens), 0, 0
    left, pending = list(draft), marks.start
    while True:
        ahead = left[:LOOKAHEAD]
        proposal = torch.tensor([[pending, *ahead]], device=speech.frames.device)
        wanted, sure = (part[0].tolist() for part in next_tokens(model, proposal, speech, cache, marks.never))
        passes, computed = passes + 1, computed + proposal.shape[1]
        agreed = next((i for i, token in enumerate(ahead) if token != wanted[i]), len(ahead))
        accepted = wanted[: agreed + 1]
        for token, confidence in zip(accepted, sure, strict=False):
            if token == marks.end or len(tokens) >= limit:
                return Decoded([tokens], [confidences], torch.tensor([passes]), torch.tensor([computed]))
            tokens.append(token)
            confidences.append(confidence)
            if again := repeated(tokens):
                kept = [tokens[:-again]], [confidences[:-again]]
                return Decoded(*kept, torch.tensor([passes]), torch.tensor([computed]))
        cache.crop(len(tokens))  # the start and all tokens but the last, which the next pass computes
        pending, left = tokens[-1], _behind(left[agreed:], tokens[-1])


def teacher_forced(sequences: list[list[int]], marks: Marks = Marks()) -> tuple[Tensor, Tensor]:
    """What the twin reads and what it should write next for token sequences: [len(sequences), longest + 1] each."""
    width = max(map(len, sequences)) + 1
    padding = [width - 1 - len(tokens) for tokens in sequences]
    inputs = torch.tensor([[marks.start, *s] + [marks.end] * n for s, n in zip(sequences, padding, strict=True)])
    wanted = torch.tensor([[*s, marks.end] + [IGNORED] * n for s, n in zip(sequences, padding, strict=True)])
    return inputs, wanted


def score_sequences(model: Writes, speech: object, sequences: list[list[int]]) -> Tensor:
    """log p(tokens | speech) of several token sequences of one utterance, all in one pass: [len(sequences)]."""
    inputs, wanted = teacher_forced(sequences, marks_of(model))
    device = speech.frames.device
    logits = model.denoise(inputs.to(device), speech).float().transpose(1, 2)
    return -F.cross_entropy(logits, wanted.to(device), ignore_index=IGNORED, reduction="none").sum(1)


def _behind(draft: list[int], token: int) -> list[int]:
    """What of a draft follows a token where its first was expected: it stood there or soon, or replaces that."""
    near = draft[:4]
    return draft[1 + near.index(token) :] if token in near else draft[1:]


def likeliest(logits: Tensor, never: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The most probable token of logits [..., vocabulary] and its probability; `never` lists what no text has."""
    logits = logits.float()
    for token in never:
        logits[..., token] = -torch.inf
    best = logits.softmax(-1).max(-1)
    return best.indices, best.values


def next_tokens(
    model: Writes, tokens: Tensor, speech: object, cache: TextCache, never: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The most probable token behind each of more tokens [batch, n] and its probability, both [batch, n]."""
    if hasattr(model, "likeliest"):
        return model.likeliest(tokens, speech, cache, never)
    return likeliest(model.extend(tokens, speech, cache), never)
