"""When each word is spoken, by a CTC recogniser, and what that says about the frames of a new vocabulary.

CTC finds the alignment of a text by itself, but slowly; frames labelled by another recogniser show it the way (Sak et
al. 2015, "Learning acoustic frame labeling for speech recognition with recurrent neural networks", Sec. 4).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from asr.audio.features import FRAME_HOP, SAMPLING_RATE
from asr.ctc.timing import MAX_TAIL, align_tokens
from asr.text.tokenizer import Tokenizer, normalise_text, written_text

IGNORED = -100  # the label of frames that nobody knows
FRAMES_PER_SECOND = SAMPLING_RATE / FRAME_HOP
Span = tuple[int, int]  # first frame of 10 ms and the one behind the last


class Aligner:
    """A recogniser whose CTC output places words in time.

    Args:
        name: of one of our own recognisers: a shipped one, a folder or a Hub id.

    Raises:
        ValueError: its vocabulary cannot spell texts.
    """

    def __init__(self, name: str):
        from asr.loading import load_recogniser

        self.recogniser = load_recogniser(name, "cpu")
        units = getattr(self.recogniser, "tokenizer", None)
        if not isinstance(units, Tokenizer):
            raise ValueError(f"{name} has a vocabulary of its own: words are aligned by a CTC recogniser of ours")
        self.units = units

    def spans(self, wave: np.ndarray, text: str) -> list[Span | None] | None:
        """The frames of each word of `written_text(text)` in a wave [samples] at 16 kHz.

        None for words that the vocabulary cannot spell (digits, often), and as a whole where the text does not fit.
        """
        words = written_text(text).split()
        spelt = [self.units.encode(word if self.units.written else normalise_text(word)) for word in words]
        with torch.inference_mode():
            (frames,) = self.recogniser.listen([wave]).posteriors
        try:
            found = align_tokens(frames.cpu(), sum(spelt, []))
        except ValueError:
            return None
        hop = self.recogniser.hop_seconds * FRAMES_PER_SECOND
        tokens = iter(found)
        placed = [[next(tokens) for _ in word] for word in spelt]
        for word, pieces in zip(placed, spelt, strict=True):
            if len(pieces) > 1 and not self.units.decode(pieces[:1]):  # a bare word mark may stand in the pause before
                del word[0]
        limit, spans = len(wave) // FRAME_HOP, []
        for word in reversed(placed):  # a word sounds on after its last token, until the next begins
            spans.append(None)
            if word:
                first, last = round(word[0][0] * hop), round(word[-1][1] * hop)
                spans[-1] = (first, max(first + 1, min(last + round(MAX_TAIL * FRAMES_PER_SECOND), limit)))
                limit = first
        return spans[::-1]


@lru_cache(maxsize=1)
def aligner(name: str) -> Aligner:
    """The aligner of this worker process, loaded once."""
    return Aligner(name)


def frame_labels(
    words: list[str], spans: list[Span | None] | None, units: Tokenizer, steps: int, hop: int
) -> list[int]:
    """The unit that each step of a CTC branch should say: those of a word share its time, pauses are blank.

    Args:
        words: of the written text.
        spans: their frames of 10 ms; words without one leave the steps up to the next word unknown.
        units: vocabulary of the branch.
        steps: of the branch for this utterance.
        hop: frames of 10 ms to a step.

    Returns:
        [steps] unit ids, IGNORED where unknown.
    """
    if spans is None:
        return [IGNORED] * steps
    labels, place, unknown = [units.blank_id] * steps, 0, False
    for word, span in zip(words, spans, strict=True):
        if span is None:
            unknown = True
            continue
        tokens = units.encode(word)
        edges = np.rint(np.linspace(span[0], span[1], len(tokens) + 1) / hop).astype(int)
        first = max(place, edges[0])
        if unknown:
            labels[place:first], unknown = [IGNORED] * (min(first, steps) - min(place, steps)), False
        for token, start, end in zip(tokens, edges, edges[1:], strict=False):
            start = max(place, start)
            if start and start < steps and labels[start - 1] == token:  # CTC reads equal neighbours as one
                start += 1
            end = min(max(start + 1, end), steps)
            labels[start:end] = [token] * max(0, end - start)
            place = max(place, end)
    if unknown:
        labels[place:] = [IGNORED] * (steps - place)
    return labels
