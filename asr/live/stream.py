"""Live text: blocks of samples in, text that settles out.

What is being said is recognised again and again while it grows. Words on which two recognitions in a row agree
are settled and never change (LocalAgreement-2: Liu et al. 2020, arXiv 2005.11185, Sec. 3; for long streams
Machacek et al. 2023, arXiv 2307.14743, Sec. 2). A pause ends the segment and settles the rest. What is settled up to
the end of a sentence is not heard again, so that a recognition costs the same however long someone speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from asr.audio.io import SAMPLING_RATE
from asr.audio.segment import Segmenter, SegmentStream, SpeechSegment
from asr.output.transcript import Segment, Word

STEP = 0.5  # seconds between two recognitions of what is being said
MARGIN = 0.3  # seconds before the end of what was heard: words there may be cut off, and are not settled yet
LONGEST = 15.0  # seconds of a segment, so that hearing it again stays cheap
PAUSE = 0.7  # seconds; a longer one ends a segment
HEARD = 5.0  # seconds of a segment that are heard again in any case
BREAK = 0.25  # seconds between words at which a segment may be cut in the middle of a sentence, if it must
APART = 0.5  # seconds between the starts of a word in two recognitions that agree
SENTENCE_ENDS = (".", "?", "!")

Recognise = Callable[[list[SpeechSegment]], list[Segment]]  # a batch, as `asr.Transcriber.recognise` takes it


@dataclass(frozen=True)
class LiveEvent:
    """What is known of the current segment.

    Args:
        kind: "partial" while it goes on, "final" when it is over (the next event belongs to another one).
        segment: its text and words, times in seconds from the start of the stream.
        settled: how many of its words will not change any more; all of them in a final event.
        heard: seconds of the stream that had been heard by then.
    """

    kind: Literal["partial", "final"]
    segment: Segment
    settled: int
    heard: float

    @property
    def settled_text(self) -> str:
        return _text(self.segment.words[: self.settled])

    @property
    def pending_text(self) -> str:
        return _text(self.segment.words[self.settled :])


@dataclass
class LiveState:
    """What one block of a stream hands to the next."""

    speech: SegmentStream
    samples: int = 0  # heard
    recognised: int = 0  # samples heard at the last recognition
    settled: list[Word] = field(default_factory=list)  # of the current segment
    pending: list[Word] = field(default_factory=list)  # what the last recognition said beyond those
    cut: float = 0.0  # seconds; what was said before in the current segment is settled and not heard again

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLING_RATE


class LiveTranscriber:
    """Transcribes streams while they are heard; one object serves any number of them.

        live = LiveTranscriber(Transcriber.from_pretrained().recognise)
        state = live.start()
        for block in blocks:                     # [samples] at 16 kHz, of any length
            for event in live.push(state, block):
                print(event.kind, event.settled_text, "|", event.pending_text)
        for event in live.finish(state): ...

    A block is answered with at most one recognition of the segment that goes on, however long it is. So a caller
    that is behind catches up by handing over all that has come meanwhile as one block.

    Args:
        recognise: turns speech segments into text with word times; `Transcriber.recognise` or what calls it.
        segmenter: finds the speech; its `max_pause` is what ends a segment.
        step: seconds of new audio after which the current segment is recognised again.

    Raises:
        ValueError: a step that is not positive.
    """

    def __init__(self, recognise: Recognise, segmenter: Segmenter | None = None, step: float = STEP):
        if not step > 0:
            raise ValueError(f"step is {step} s; it must be more than 0")
        self.recognise = recognise
        self.segmenter = segmenter or Segmenter(max_seconds=LONGEST, max_pause=PAUSE)
        self.step = round(step * SAMPLING_RATE)

    def start(self) -> LiveState:
        """The state of a new stream."""
        return LiveState(self.segmenter.start())

    def push(self, state: LiveState, block: np.ndarray) -> list[LiveEvent]:
        """Hear a block [samples] at 16 kHz; what it made known, in order."""
        state.samples += len(block)
        events = self._finals(state, list(state.speech.push(block)))
        if state.samples - state.recognised >= self.step:
            state.recognised = state.samples
            segment = state.speech.unfinished()
            if segment:
                events += self._partial(state, segment)
        return events

    def finish(self, state: LiveState) -> list[LiveEvent]:
        """The stream is over: what was still going on, as final events."""
        return self._finals(state, list(state.speech.finish()))

    def _finals(self, state: LiveState, finished: list[SpeechSegment]) -> list[LiveEvent]:
        if not finished:
            return []
        events = []
        parts = [_part(speech, state.cut) for speech in finished]
        for speech, heard in zip(finished, self.recognise(parts), strict=True):
            own = [word for word in state.settled if _middle(word) < speech.end]
            words = own + _beyond(own, state.cut, _words(heard))
            state.settled, state.pending = state.settled[len(own) :], []
            if words:
                as_heard = _agreeing(words, heard.words) == len(words) == len(heard.words)
                text = heard.text if as_heard else _text(words)
                segment = Segment(speech.start, speech.end, text, words, heard.score)
                events.append(LiveEvent("final", segment, len(words), state.seconds))
        state.recognised, state.cut = state.samples, 0.0
        return events

    def _partial(self, state: LiveState, speech: SpeechSegment) -> list[LiveEvent]:
        heard = self.recognise([_part(speech, state.cut)])[0]
        before = [word.text for word in state.settled + state.pending], len(state.settled)
        new = _beyond(state.settled, state.cut, _words(heard))
        agreed = _agreeing([word for word in new if word.end <= speech.end - MARGIN], state.pending, APART)
        state.settled, state.pending = state.settled + new[:agreed], new[agreed:]
        state.cut = _next_cut(state, speech)
        words = state.settled + state.pending
        if ([word.text for word in words], len(state.settled)) == before:
            return []
        segment = Segment(speech.start, speech.end, _text(words), words, heard.score)
        return [LiveEvent("partial", segment, len(state.settled), state.seconds)]


def _part(speech: SpeechSegment, cut: float) -> SpeechSegment:
    """The segment from a cut on, which may lie before it."""
    first = max(0, round((cut - speech.start) * SAMPLING_RATE))
    return SpeechSegment(speech.start + first / SAMPLING_RATE, speech.wave[first:]) if first else speech


def _next_cut(state: LiveState, speech: SpeechSegment) -> float:
    """From where to hear the segment the next time: behind a settled sentence; in a pause where that would be long."""
    latest = speech.end - HEARD
    if max(state.cut, speech.start) > latest:
        return state.cut
    followed = zip(state.settled, [*state.settled, *state.pending][1:], strict=False)
    places = [(word, after) for word, after in followed if state.cut < word.end <= latest + HEARD / 2]
    ends = [(word.end + after.start) / 2 for word, after in places if word.text[-1:] in SENTENCE_ENDS]
    if not ends and max(state.cut, speech.start) < latest - HEARD:
        ends = [(word.end + after.start) / 2 for word, after in places if after.start - word.end >= BREAK]
    return ends[-1] if ends else state.cut


def _words(heard: Segment) -> list[Word]:
    """Words with times; spread evenly where the recogniser gives none."""
    if heard.words:
        return heard.words
    texts = heard.text.split()
    step = (heard.end - heard.start) / max(1, len(texts))
    return [Word(text, heard.start + i * step, heard.start + (i + 1) * step, 0.0) for i, text in enumerate(texts)]


def _beyond(settled: list[Word], cut: float, words: list[Word]) -> list[Word]:
    """What was said after the settled words: that behind the beginning which is most like those that are heard again.

    Words tell (least edits), since times move between two recognitions; where they do not, the times do.
    """
    again = [word for word in settled if _middle(word) > cut]
    if not again:
        return words
    edits, end = _edits(again, words), again[-1].end

    def apart(split: int) -> float:
        """Seconds between the end of what is settled and a place between two words."""
        before = words[split - 1].end - end if split else 0.0
        behind = end - words[split].start if split < len(words) else 0.0
        return max(0.0, before, behind)

    return words[min(range(len(words) + 1), key=lambda split: (edits[split], apart(split))) :]


def _edits(settled: list[Word], words: list[Word]) -> list[int]:
    """Least number of words put in, left out or replaced between the settled ones and each beginning of the words."""
    row = list(range(len(words) + 1))
    for count, word in enumerate(map(_folded, settled), start=1):
        left, diagonal = count, row[0]
        row[0] = count
        for i, other in enumerate(map(_folded, words), start=1):
            left = min(left + 1, row[i] + 1, diagonal + (word != other))
            diagonal, row[i] = row[i], left
    return row


def _agreeing(words: list[Word], others: list[Word], apart: float = float("inf")) -> int:
    """Words at the start that both have, not farther apart than so many seconds; case and punctuation, which depend on
    what follows, aside."""
    count = 0
    for word, other in zip(words, others, strict=False):
        if _folded(word) != _folded(other) or abs(word.start - other.start) > apart:
            break
        count += 1
    return count


def _folded(word: Word) -> str:
    return "".join(c for c in word.text.casefold() if c.isalnum()) or word.text


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def _text(words: list[Word]) -> str:
    return " ".join(word.text for word in words)
