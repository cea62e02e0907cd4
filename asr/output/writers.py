"""Transcripts as files: txt, srt, vtt, tsv and json, named and laid out as Whisper's command line does.

Subtitles without line limits have one cue per segment. A limit turns them into cues built from words, which
therefore need word times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from asr.output.transcript import Segment, Transcript, Word

CUE_PAUSE = 3.0  # seconds; a longer pause between words starts a new cue


@dataclass(frozen=True)
class LineLimits:
    """Limits of subtitle lines.

    Args:
        max_line_width: characters in a line; longer words stand alone.
        max_line_count: lines in a cue; needs max_line_width.
        max_words_per_line: words in a line, each line being a cue of its own; not with max_line_width.

    Raises:
        ValueError: a limit below 1 or a combination that means nothing.
    """

    max_line_width: int | None = None
    max_line_count: int | None = None
    max_words_per_line: int | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.max_line_count and not self.max_line_width:
            raise ValueError("max_line_count needs max_line_width, which says when a line is full")
        if self.max_words_per_line and self.max_line_width:
            raise ValueError("max_words_per_line and max_line_width exclude each other")

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())


@dataclass(frozen=True)
class Cue:
    start: float
    end: float
    text: str


def write_txt(transcript: Transcript, limits: LineLimits) -> str:
    return "".join(f"{segment.text}\n" for segment in transcript.segments if segment.text)


def write_srt(transcript: Transcript, limits: LineLimits) -> str:
    return "".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(cues(transcript, limits), start=1)
    )


def write_vtt(transcript: Transcript, limits: LineLimits) -> str:
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_escaped(cue.text)}\n\n"
        for cue in cues(transcript, limits)
    )


def write_tsv(transcript: Transcript, limits: LineLimits) -> str:
    """Start and end in whole milliseconds, then the text."""
    lines = ["start\tend\ttext"]
    for segment in transcript.segments:
        text = " ".join(segment.text.split())
        lines.append(f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{text}")
    return "\n".join(lines) + "\n"


def write_json(transcript: Transcript, limits: LineLimits) -> str:
    return json.dumps(transcript.as_dict(), ensure_ascii=False, indent=2) + "\n"


WRITERS = {"txt": write_txt, "srt": write_srt, "vtt": write_vtt, "tsv": write_tsv, "json": write_json}


def cues(transcript: Transcript, limits: LineLimits) -> Iterator[Cue]:
    """Subtitle cues in order.

    Raises:
        ValueError: limits were given and a segment has text but no word times.
    """
    for segment in transcript.segments:
        if not segment.text:
            continue
        if not limits:
            yield Cue(segment.start, segment.end, segment.text)
            continue
        if not segment.words:
            raise ValueError("line limits need word times: transcribe with word_timestamps")
        yield from _limited_cues(segment, limits)


def _limited_cues(segment: Segment, limits: LineLimits) -> Iterator[Cue]:
    lines: list[list[Word]] = []
    for line in _lines(segment.words, limits):
        full = len(lines) >= (limits.max_line_count or 1)
        if lines and (full or line[0].start - lines[-1][-1].end > CUE_PAUSE):
            yield _cue(lines)
            lines = []
        lines.append(line)
    yield _cue(lines)


def _lines(words: list[Word], limits: LineLimits) -> Iterator[list[Word]]:
    line: list[Word] = []
    for word in words:
        too_wide = len(" ".join(w.text for w in [*line, word])) > (limits.max_line_width or float("inf"))
        too_many = len(line) >= (limits.max_words_per_line or float("inf"))
        if line and (too_wide or too_many or word.start - line[-1].end > CUE_PAUSE):
            yield line
            line = []
        line.append(word)
    yield line


def _cue(lines: list[list[Word]]) -> Cue:
    text = "\n".join(" ".join(word.text for word in line) for line in lines)
    return Cue(lines[0][0].start, lines[-1][-1].end, text)


def _clock(seconds: float, decimal_mark: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{decimal_mark}{rest % 1000:03d}"


def _escaped(text: str) -> str:
    """WebVTT reads <, > and & as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
