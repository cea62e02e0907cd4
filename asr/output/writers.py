"""Transcripts as files: txt, srt, vtt, lrc, tsv and json, named and laid out as Whisper's command line does.

Subtitles without line limits have one cue per segment. Limits turn them into cues built from words
(`asr.output.subtitles`), which therefore need word times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from asr.output.subtitles import Cue, LineLimits, word_cues
from asr.output.transcript import Segment, Transcript


def write_txt(transcript: Transcript, limits: LineLimits) -> str:
    return "".join(f"{segment.text}\n" for segment in transcript.segments if segment.text)


def write_timed_txt(transcript: Transcript, limits: LineLimits) -> str:
    """Text with the times of each segment, as Whisper shows it."""
    return "".join(f"{timed_line(segment)}\n" for segment in transcript.segments if segment.text)


def timed_line(segment: Segment) -> str:
    return f"[{_short_clock(segment.start)} --> {_short_clock(segment.end)}] {segment.text}"


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


def write_lrc(transcript: Transcript, limits: LineLimits) -> str:
    """Lyrics: the minute, second and hundredth at which each line starts."""
    lines = []
    for cue in cues(transcript, limits):
        minutes, hundredths = divmod(round(100 * cue.start), 6000)
        text = " ".join(cue.text.split("\n"))
        lines.append(f"[{minutes:02d}:{hundredths // 100:02d}.{hundredths % 100:02d}]{text}\n")
    return "".join(lines)


def write_tsv(transcript: Transcript, limits: LineLimits) -> str:
    """Start and end in whole milliseconds, then the text."""
    lines = ["start\tend\ttext"]
    for segment in transcript.segments:
        text = " ".join(segment.text.split())
        lines.append(f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{text}")
    return "\n".join(lines) + "\n"


def write_json(transcript: Transcript, limits: LineLimits) -> str:
    return json.dumps(transcript.as_dict(), ensure_ascii=False, indent=2) + "\n"


WRITERS = {"txt": write_txt, "srt": write_srt, "vtt": write_vtt, "lrc": write_lrc, "tsv": write_tsv, "json": write_json}


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
        yield from word_cues(segment.words, limits)


def _clock(seconds: float, decimal_mark: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{decimal_mark}{rest % 1000:03d}"


def _short_clock(seconds: float) -> str:
    """The hours only where there are any."""
    return _clock(seconds, ".").removeprefix("00:")


def _escaped(text: str) -> str:
    """WebVTT reads <, > and & as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
