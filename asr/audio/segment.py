"""Find the speech in a stream of audio and cut it into segments that a recogniser can take at once.

Speech is packed into segments as long as pauses stay short, and a segment that grows too long is cut at its
longest pause (WhisperX, Bain et al. 2023, Sec. 2.1, cuts at the lowest voice activity). What comes before and
after has no influence on a segment, so a recording of any length needs the memory of one segment.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from asr.audio.io import SAMPLING_RATE
from asr.audio.level import Leveller

FRAME = 512  # samples: 32 ms, what a detector judges at a time
FRAME_SECONDS = FRAME / SAMPLING_RATE
BLOCK = 1024  # frames that the detector gets at once: more would only take more memory
CERTAIN = 0.8  # probability

SpeechDetector = Callable[[np.ndarray], np.ndarray]  # next frames [n, 512] -> probabilities of speech [n]


@dataclass(frozen=True)
class SpeechSegment:
    """A stretch of speech: wave [samples] at 16 kHz, which starts `start` seconds into the recording."""

    start: float
    wave: np.ndarray = field(repr=False)

    @property
    def duration(self) -> float:
        return len(self.wave) / SAMPLING_RATE

    @property
    def end(self) -> float:
        return self.start + self.duration


def silero() -> SpeechDetector:
    """The detector of one stream by silero-vad."""
    from asr.audio.silero import Silero  # late, since torch takes its time

    return Silero()


@dataclass(frozen=True)
class Segmenter:
    """Cuts a stream into speech segments; keeps nothing between two calls.

    Args:
        max_seconds: the longest segment, its padding included.
        max_pause: a longer pause (seconds) ends a segment.
        padding: seconds of audio kept before and after the speech.
        onset: probability at which speech begins; 0 takes everything for speech.
        offset: probability under which it ends; by default 0.15 below the onset.
        min_speech: segments with less speech (seconds) are dropped as noise, unless `min_certain` is met.
        min_certain: seconds of speech with a probability of 0.8 and more that make a segment a short word.
            Single words reach that ("the" 0.16 s); music raises the probability for a moment but not so far.
        detector: makes the speech detector of one stream; by default silero-vad.
    """

    max_seconds: float = 30.0
    max_pause: float = 1.0
    padding: float = 0.3
    onset: float = 0.5
    offset: float | None = None
    min_speech: float = 0.5
    min_certain: float = 0.1
    detector: Callable[[], SpeechDetector] = field(default=silero, repr=False)

    def __post_init__(self):
        if not 0 <= self.onset < 1:
            raise ValueError(f"onset {self.onset} is not in 0..1 (1 excluded: nothing would be speech)")
        if self.max_pause < 2 * self.padding:
            raise ValueError(f"max_pause {self.max_pause} s is under twice the padding; segments overlap")
        if self.max_seconds < 1 + 2 * self.padding:
            raise ValueError(f"max_seconds {self.max_seconds} leaves no room for speech beside the padding")

    def __call__(self, blocks: Iterable[np.ndarray]) -> Iterator[SpeechSegment]:
        """Segments of the blocks [samples] of one recording at 16 kHz, each as soon as it is over."""
        stream = self.start()
        for block in blocks:
            yield from stream.push(block)
        yield from stream.finish()

    def start(self) -> SegmentStream:
        """The state of one stream, to be fed block by block."""
        return SegmentStream(self)

    def is_speech(self, probabilities: list[float]) -> bool:
        """Whether frames of speech with these probabilities are more than a noise."""
        certain = sum(probability >= CERTAIN for probability in probabilities)
        return len(probabilities) >= _frames(self.min_speech) or certain >= _frames(self.min_certain) or self.onset == 0


class SegmentStream:
    """What one stream hands from block to block: frames not yet given away and the detector's memory."""

    def __init__(self, segmenter: Segmenter):
        self.segmenter = segmenter
        offset = max(0.0, segmenter.onset - 0.15) if segmenter.offset is None else segmenter.offset
        self._thresholds = segmenter.onset, offset  # of the probability: while nobody speaks, while somebody does
        self._longest_pause = _frames(segmenter.max_pause)
        self._longest = _frames(segmenter.max_seconds - segmenter.padding)
        self._detect = segmenter.detector()
        self._level = Leveller(FRAME_SECONDS)
        self._speaking = False
        self._rest = np.zeros(0, np.float32)  # samples that do not fill a frame
        self._pending = _Pending(_frames(segmenter.padding))

    def push(self, block: np.ndarray) -> Iterator[SpeechSegment]:
        """Segments that are over once this block [samples] at 16 kHz is heard; to be read to the end."""
        samples = np.concatenate([self._rest, block])
        whole = len(samples) // FRAME * FRAME
        self._rest = samples[whole:]
        for first in range(0, whole, BLOCK * FRAME):
            yield from self._add(samples[first : min(first + BLOCK * FRAME, whole)].reshape(-1, FRAME))

    def finish(self) -> Iterator[SpeechSegment]:
        """What is left at the end of the stream."""
        if len(self._rest):
            last = np.pad(self._rest, (0, FRAME - len(self._rest)))
            yield from self._add(last[None], len(self._rest))
        pending = self._pending
        if pending.has_speech:
            end = min(len(pending), pending.speech_end + _frames(self.segmenter.padding))
            yield from self._kept(*pending.take(end))

    def unfinished(self) -> SpeechSegment | None:
        """The segment that goes on, as far as it has been heard; None where nobody speaks."""
        pending = self._pending
        speech = list(itertools.compress(pending.probabilities, pending.speech))
        if not speech or not self.segmenter.is_speech(speech):
            return None
        return SpeechSegment(pending.first * FRAME_SECONDS, np.concatenate(pending.frames))

    def _add(self, frames: np.ndarray, samples: int = FRAME) -> Iterator[SpeechSegment]:
        """Hear the next frames [n, FRAME], of which so many samples count."""
        pending = self._pending
        for frame, probability in zip(frames, self._detect(self._level(frames)).tolist(), strict=True):
            self._speaking = probability >= self._thresholds[self._speaking]
            pending.add(frame[:samples], probability, self._speaking)
            if pending.silence >= self._longest_pause:
                yield from self._kept(*pending.take(pending.speech_end + pending.padding))
            elif len(pending.frames) >= self._longest:
                yield from self._kept(*pending.take(pending.best_cut()))

    def _kept(self, segment: SpeechSegment, speech: list[float]) -> Iterator[SpeechSegment]:
        if self.segmenter.is_speech(speech):
            yield segment


class _Pending:
    """The frames not yet given away: up to `padding` frames of silence, then speech and short pauses."""

    def __init__(self, padding: int):
        self.padding = padding
        self.first = 0  # index in the stream of the first frame kept
        self.frames: list[np.ndarray] = []
        self.probabilities: list[float] = []
        self.speech: list[bool] = []
        self.speech_end = 0  # one past the last frame of speech; 0: there is none

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def has_speech(self) -> bool:
        return self.speech_end > 0

    @property
    def silence(self) -> int:
        """Frames since the last speech, 0 before any."""
        return len(self.frames) - self.speech_end if self.speech_end else 0

    def add(self, frame: np.ndarray, probability: float, speech: bool) -> None:
        self.frames.append(frame)
        self.probabilities.append(probability)
        self.speech.append(speech)
        if speech:
            self.speech_end = len(self)
        elif not self.has_speech and len(self) > self.padding:
            self._drop(1)

    def best_cut(self) -> int:
        """Where to cut overlong speech: the middle of the longest pause in the later two thirds.

        Without any pause it is the frame least like speech, its neighbours included.
        """
        earliest = len(self) // 3
        runs = itertools.groupby(range(earliest, len(self)), key=self.speech.__getitem__)
        pauses = [list(run) for speech, run in runs if not speech]
        if pauses:
            longest = max(pauses, key=len)
            return longest[len(longest) // 2]
        smooth = np.convolve(self.probabilities, np.ones(3) / 3, mode="same")
        return earliest + int(np.argmin(smooth[earliest:-1]))

    def take(self, end: int) -> tuple[SpeechSegment, list[float]]:
        """Remove the frames before `end`; return them as a segment, and the probabilities of its speech."""
        segment = SpeechSegment(self.first * FRAME_SECONDS, np.concatenate(self.frames[:end]))
        speech = [self.probabilities[i] for i in range(end) if self.speech[i]]
        self._drop(end)
        self.speech_end = max((i + 1 for i, speech in enumerate(self.speech) if speech), default=0)
        if not self.has_speech:
            self._drop(max(0, len(self) - self.padding))
        return segment, speech

    def _drop(self, count: int) -> None:
        del self.frames[:count], self.probabilities[:count], self.speech[:count]
        self.first += count


def _frames(seconds: float) -> int:
    return round(seconds / FRAME_SECONDS)
