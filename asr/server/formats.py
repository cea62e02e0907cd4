"""Transcripts in the response formats of OpenAI's transcription API.

Names and fields: https://platform.openai.com/docs/api-reference/audio. What only Whisper knows (tokens, the probability
of no speech) is null. Where a recording is damaged, JSON has `warnings` too, and other formats the header X-Warning.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from urllib.parse import quote

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from asr.audio.report import told
from asr.output.transcript import Segment, Transcript, Word
from asr.output.writers import WRITERS, LineLimits

MEDIA_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt", "text": "text/plain"}


def as_response(
    transcript: Transcript, response_format: str, granularities: Collection[str], task: str, language: str
) -> Response:
    """The answer to a request that waits for the whole transcript."""
    if response_format == "json":
        return JSONResponse({"text": transcript.text, "usage": _usage(transcript), **_warnings(transcript)})
    if response_format == "verbose_json":
        return JSONResponse(verbose(transcript, granularities, task, language))
    if response_format == "text":
        text = transcript.text + "\n"
    else:
        text = WRITERS[response_format](transcript, LineLimits())
    headers = {"X-Warning": quote("; ".join(warnings(transcript)), safe=" ,;:().")} if warnings(transcript) else {}
    return PlainTextResponse(text, media_type=MEDIA_TYPES[response_format], headers=headers)


def verbose(transcript: Transcript, granularities: Collection[str], task: str, language: str) -> dict:
    """The verbose JSON; segments, words or both as the granularities say, segments by default."""
    result = {"task": task, "language": language, "duration": round(transcript.duration, 3), "text": transcript.text,
              "usage": _usage(transcript), **_warnings(transcript)}
    if "word" in granularities:
        result["words"] = [_word(word) for word in transcript.words]
    if "segment" in granularities or not granularities:
        result["segments"] = [_segment(i, segment) for i, segment in enumerate(transcript.segments)]
    return result


def event(data: dict) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def delta(segment: Segment, is_first: bool) -> str:
    """The event of a segment that is ready; the deltas joined are the text."""
    return event({"type": "transcript.text.delta", "delta": segment.text if is_first else f" {segment.text}"})


def done(transcript: Transcript) -> str:
    done = {"type": "transcript.text.done", "text": transcript.text, "usage": _usage(transcript)}
    return event(done | _warnings(transcript))


def warnings(transcript: Transcript) -> list[str]:
    """What a reader of the text should know of the recording, a sentence each."""
    return [*([told(transcript.missing)] if transcript.missing else []), *transcript.remarks]


def _warnings(transcript: Transcript) -> dict:
    """The field of the JSON formats; only where there are any."""
    return {"warnings": warnings(transcript)} if warnings(transcript) else {}


def _usage(transcript: Transcript) -> dict:
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _word(word: Word) -> dict:
    return {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3),
            "confidence": round(word.confidence, 3)}


def _segment(number: int, segment: Segment) -> dict:
    fields = segment.as_whisper(number)
    for name in ("avg_logprob", "compression_ratio"):
        fields[name] = None if fields[name] is None else round(fields[name], 4)
    return {**fields, "start": round(segment.start, 3), "end": round(segment.end, 3), "text": segment.text}
