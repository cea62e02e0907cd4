"""What recognition returns: words in segments in a transcript. Times are seconds into the recording."""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher

from asr.audio.report import Gap

SHORTEST_WORD = 0.02  # seconds
SEEK_STEPS = 100  # Whisper counts positions in frames of 10 ms


@dataclass(frozen=True)
class Word:
    """A word, when it was said and how sure the recogniser is of it (0..1)."""

    text: str
    start: float
    end: float
    confidence: float

    def shifted(self, seconds: float) -> Word:
        return replace(self, start=self.start + seconds, end=self.end + seconds)


def fitted(words: list[Word], start: float, end: float) -> list[Word]:
    """The words between `start` and `end`: each sounds for a while, and none on into the next.

    Models count time in frames, the last of which may reach past the sound, and spread texts that do not fit it.
    """
    least = min(SHORTEST_WORD, (end - start) / max(1, len(words)))
    starts, earliest = [], start
    for word in words:
        starts.append(max(word.start, earliest))
        earliest = starts[-1] + least
    latest = end
    for i in reversed(range(len(words))):
        starts[i] = max(start, min(starts[i], latest - least))
        latest = starts[i]
    ends = [*starts[1:], end][: len(words)]
    return [
        replace(word, start=begin, end=min(max(word.end, begin + least), limit))
        for word, begin, limit in zip(words, starts, ends, strict=True)
    ]


@dataclass(frozen=True)
class Segment:
    """Speech between two pauses.

    `score` is the log-probability of the text. `nbest` holds (text, score) of the best hypotheses, best
    first, when more than one was asked for; `words` is empty unless word times were.
    """

    start: float
    end: float
    text: str
    words: list[Word] = field(default_factory=list)
    score: float | None = None
    nbest: list[tuple[str, float]] = field(default_factory=list)

    def with_text(self, text: str) -> Segment:
        """The segment with corrected text: kept words keep their times, new ones take those they replace.

        A word is kept too where only its case or the marks beside it change.
        """
        return replace(self, text=text, words=_retimed(self.words, text.split(), self) if self.words else [])


    def as_whisper(self, number: int) -> dict:
        """The fields that Whisper's JSON has beside ours; null is what only Whisper knows."""
        encoded = self.text.encode()
        logs = [math.log(max(word.confidence, 1e-9)) for word in self.words]
        return {
            "id": number, "seek": round(SEEK_STEPS * self.start), "tokens": None, "temperature": 0.0,
            "avg_logprob": sum(logs) / len(logs) if logs else None,
            "compression_ratio": len(encoded) / len(zlib.compress(encoded)) if encoded else None,
            "no_speech_prob": None,
        }  # fmt: skip


@dataclass(frozen=True)
class Transcript:
    """The text of a recording. A recording without speech has no segments and an empty text.

    `missing` are the stretches that could not be decoded, `remarks` what else is odd about the recording, `language`
    the code of what is spoken, where it is known.
    """

    segments: list[Segment]
    duration: float  # seconds of the recording
    missing: list[Gap] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    language: str | None = None

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def words(self) -> list[Word]:
        return [word for segment in self.segments for word in segment.words]

    def as_dict(self) -> dict:
        """Plain values for JSON, times rounded to milliseconds; `missing` and `remarks` only where there are any.

        Segments and words have Whisper's fields beside ours: `word` (with the space before it) and `probability` ...
        """
        values = {"text": self.text, **asdict(self)}
        for number, (segment, fields) in enumerate(zip(self.segments, values["segments"], strict=True)):
            fields |= segment.as_whisper(number)
            for word in fields["words"]:
                word |= {"word": f" {word['text']}", "probability": word["confidence"]}
        return _rounded({key: value for key, value in values.items() if value or key not in ("missing", "remarks")})


def _retimed(old: list[Word], texts: list[str], segment: Segment) -> list[Word]:
    """Words `texts` with the times of the `old` words they match."""
    words: list[Word] = []
    matcher = SequenceMatcher(a=[_said(word.text) for word in old], b=list(map(_said, texts)), autojunk=False)
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        if tag == "equal":
            words += [replace(word, text=text) for word, text in zip(old[a0:a1], texts[b0:b1], strict=True)]
            continue
        # Inserted words have no time of their own: they share the pause between their neighbours.
        before = old[a0 - 1].end if a0 else segment.start
        after = old[a1].start if a1 < len(old) else segment.end
        start, end = (old[a0].start, old[a1 - 1].end) if a1 > a0 else (before, max(before, after))
        step = (end - start) / max(1, b1 - b0)
        confidence = min((word.confidence for word in old[a0:a1]), default=0.0)
        for i, text in enumerate(texts[b0:b1]):
            words.append(Word(text, start + i * step, start + (i + 1) * step, confidence))
    return words


def _said(word: str) -> str:
    """What two spellings of a word share, however they are capitalised and punctuated."""
    return re.sub(r"[^\w']", "", word).lower() or word


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value
