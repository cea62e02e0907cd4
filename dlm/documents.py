"""What can be corrected: plain lines, transcripts in JSON, n-best lists, subtitles; read piece by piece.

A record is the smallest piece that can be written again by itself: a line, a JSON object, a file of subtitles. Its
parts are texts that follow one another, such as segments. Everything else of it, times above all, stays as it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from asr.console.program import json_text

TIMES = re.compile(r"^(\d+:)?\d+:\d+[.,]\d+ +--> +(\d+:)?\d+:\d+[.,]\d+")
CONFIDENCES = ("confidence", "probability", "score")  # of a word: ours, Whisper's, WhisperX's
Problem = Callable[[str], None]  # is told of what is left out, in one line


@dataclass
class Record:
    """Texts to correct, and how the record looks with others in their place.

    Attributes:
        running: the texts are parts of one.
        sure: for each text the recogniser's confidence in each of its words, or None.
    """

    texts: list[str]
    render: Callable[[list[str]], str]
    running: bool = False
    sure: list[list[float] | None] | None = None


def read_records(name: str, problem: Problem) -> Iterator[Record]:
    """The records of a file, or of standard input where the name is "-"; the layout is told from the content.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8 text.
    """
    with _lines_of(name) as lines:
        head = _head(lines)
        start = head[-1].lstrip() if head else ""
        if start.startswith("{"):
            yield from _json_records(name, head, lines, problem)
        elif start.startswith("WEBVTT") or _is_subtitle(head, lines):
            yield _subtitles([*head, *lines])
        else:
            for line in chain(head, lines):
                yield Record([line], lambda texts: f"{texts[0]}\n")


@contextmanager
def _lines_of(name: str) -> Iterator[Iterator[str]]:
    """The lines of an input without their ends; they end at newlines only, as texts may hold other separators."""
    file = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115

    def lines() -> Iterator[str]:
        for number, line in enumerate(file):
            try:
                yield line.decode("utf-8" if number else "utf-8-sig").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                raise ValueError(f"is not UTF-8 text (line {number + 1})") from None

    try:
        yield lines()
    finally:
        if name != "-":
            file.close()


def _head(lines: Iterator[str]) -> list[str]:
    """The lines up to the first one that is not empty."""
    head = []
    for line in lines:
        head.append(line)
        if line.strip():
            break
    return head


def _is_subtitle(head: list[str], lines: Iterator[str]) -> bool:
    """Whether times stand on or below the first line; what has to be read for that is put into `head`."""
    if head and head[-1].strip().isdigit():
        head += [line for _, line in zip(range(1), lines, strict=False)]
    return bool(head) and bool(TIMES.match(head[-1].strip()))


# -- subtitles ---------------------------------------------------------------------------------------------


def _subtitles(lines: list[str]) -> Record:
    """Subtitles of SubRip or WebVTT: every line below the times of a cue is a text; lines with markup stay."""
    places, inside = [], False
    for number, line in enumerate(lines):
        if TIMES.match(line.strip()):
            inside = True
        elif not line.strip():
            inside = False
        elif inside and "<" not in line and "{" not in line:
            places.append(number)

    def render(texts: list[str]) -> str:
        result = list(lines)
        for place, text in zip(places, texts, strict=True):
            result[place] = text
        return "".join(f"{line}\n" for line in result)

    return Record([lines[place] for place in places], render, running=True)


# -- JSON --------------------------------------------------------------------------------------------------


def _json_records(name: str, head: list[str], lines: Iterator[str], problem: Problem) -> Iterator[Record]:
    """A JSON object, or one in each line."""
    if _parsed(head[-1]) is None:
        rest = list(lines)
        whole = _parsed("\n".join([*head, *rest]))
        if whole is not None:
            yield from _object_record(name, whole, 1, problem)
            return
        lines = iter(rest)
    for number, line in enumerate(chain(head, lines), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            problem(f"{name}: line {number} is not JSON ({error.msg})")
            continue
        yield from _object_record(name, value, None, problem)


def _parsed(text: str) -> object | None:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _object_record(name: str, value: object, indent: int | None, problem: Problem) -> Iterable[Record]:
    texts = _texts(value)
    if texts is None:
        problem(f'{name}: has neither "segments", "nbest", "hypotheses" nor "text": {json.dumps(value)[:60]}')
        return []
    running = "segments" in value
    sure = [_confidences(row) for row in value["segments"]] if running else None
    return [Record(texts, lambda new: json_text(_with_texts(value, new), indent), running, sure)]


def _texts(value: object) -> list[str] | None:
    """What an object says: a text for each segment, or one; None where nothing is found."""
    if not isinstance(value, dict):
        return None
    try:
        if "segments" in value:
            return [str(segment["text"]).strip() for segment in value["segments"]]
        for key in ("nbest", "hypotheses"):
            if key in value:
                best = value[key][0] if value[key] else ""
                return [str(best if isinstance(best, str) else best[0])]
    except (TypeError, KeyError, IndexError):
        return None
    return [str(value["text"])] if "text" in value else None


def _confidences(row: dict) -> list[float] | None:
    """The confidence in each word of a segment, None where they are not known for all."""
    words = row.get("words") or []
    found = [next((float(word[key]) for key in CONFIDENCES if word.get(key) is not None), None) for word in words]
    return found if found and None not in found and len(found) == len(row["text"].split()) else None


def _with_texts(value: dict, texts: list[str]) -> dict:
    """The object with corrected texts; word times follow the words (`asr.output.transcript.Segment.with_text`)."""
    if "segments" not in value:
        return {**value, "text": texts[0]}
    segments = [_with_text(row, text) for row, text in zip(value["segments"], texts, strict=True)]
    spaced = all(row["text"][:1].isspace() for row in value["segments"])  # Whisper's texts bring their spaces
    whole = ("" if spaced else " ").join(row["text"] for row in segments if row["text"])
    return {**value, **({"text": whole} if "text" in value else {}), "segments": segments}


def _with_text(row: dict, text: str) -> dict:
    """A segment with another text; tokens of the old one go."""
    old = row["text"]
    if text == old.strip():
        return row
    changed = {key: field for key, field in row.items() if key != "tokens"}
    changed["text"] = old[: len(old) - len(old.lstrip())] + text + old[len(old.rstrip()) :]
    if row.get("words"):
        changed["words"] = _retimed(row, text)
    return changed


def _retimed(row: dict, text: str) -> list[dict]:
    """The words of the new text as the old ones are given: under "text" or "word", with or without their spaces."""
    from asr.output.transcript import Segment, Word

    first = row["words"][0]
    name = "word" if "word" in first else "text"
    sure = next((key for key in CONFIDENCES if key in first), None)
    space = " " if first[name][:1].isspace() else ""
    begin, end = float(row.get("start", 0.0)), float(row.get("end", 0.0))
    words = [
        Word(word[name].strip(), float(word.get("start", begin)), float(word.get("end", end)), float(word.get(sure, 0)))
        for word in row["words"]
    ]
    new = Segment(begin, end, row["text"], words).with_text(text).words
    return [
        {name: space + w.text, "start": round(w.start, 3), "end": round(w.end, 3)}
        | ({sure: round(w.confidence, 3)} if sure else {})
        for w in new
    ]
