"""Labels for recordings: written text where there are plain words, and where two recognisers agree.

A recording whose text is written keeps it. One with plain words gets case and punctuation from a recogniser, its words
stay (`asr.text.written`). One without text gets the first recogniser's, if another one hears the same words. What the
recognisers said is kept shard by shard beside the result, so an interrupted run goes on and another threshold is quick.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr.text.written import carry_over, difference, is_plain, without_odd_quotes
from recipes.data.labellers import LONGEST, Labeller
from recipes.data.recording_rows import Row, Tally, write

SHARD_ROWS = 128
SHORTEST = 0.3  # seconds
HEARD = dict[str, str | None]  # text by id; None: the recording cannot be read


def agreed(texts: Sequence[str], threshold: float) -> bool:
    """Whether the first text says something and one of the others says nearly the same.

    Args:
        texts: what several recognisers heard.
        threshold: highest normalised word difference (`asr.text.written.difference`).
    """
    return bool(texts[0]) and any(other and difference(texts[0], other) <= threshold for other in texts[1:])


def verdict(row: Row, texts: Sequence[str | None], threshold: float) -> tuple[str, str]:
    """What becomes of a recording, and its text; "" leaves it out.

    Args:
        texts: what the recognisers heard, the first one's first.
        threshold: highest difference of two recognisers that agree.
    """
    if not wants_label(row):
        return "as published", row.text
    if not SHORTEST <= row.seconds <= LONGEST:
        return ("too long" if row.seconds > LONGEST else "too short"), ""
    if texts[0] is None:
        return "unreadable", ""
    if row.text:
        return "carried over", carry_over(row.text, texts[0])
    if not texts[0]:
        return "silent", ""
    if not agreed([text or "" for text in texts], threshold):
        return "disagreed", ""
    return "agreed", without_odd_quotes(texts[0])


def wants_label(row: Row) -> bool:
    return not row.text or is_plain(row.text)


@dataclass(frozen=True)
class Recogniser:
    """A labeller that is loaded when it first has something to do.

    Args:
        name: folder or Hub id.
        load: makes it.
        settings: what else its texts depend on; with the name, it marks the folder of what it heard.
    """

    name: str
    load: Callable[[], Labeller]
    settings: str = ""


def label(
    rows: Sequence[Row], out: Path, recognisers: Sequence[Recogniser], threshold: float = 0.1,
    shard_index: int = 0, shard_count: int = 1,
) -> Tally | None:  # fmt: skip
    """Label recordings and write OUT; what recognisers say is kept in OUT's name with .parts.

    Args:
        rows: the recordings.
        out: table to write.
        recognisers: the first one's texts are used; the others are asked about recordings without text.
        threshold: highest normalised word difference of two recognisers that agree.
        shard_index, shard_count: this machine's share of the work.

    Returns:
        what became of the recordings, by source; None while other machines have shards to do.
    """
    asked = [row for row in rows if wants_label(row) and SHORTEST <= row.seconds <= LONGEST]
    unknown = [row for row in asked if not row.text]
    heard = [
        _heard(recogniser, asked if number == 0 else unknown, out, shard_index, shard_count)
        for number, recogniser in enumerate(recognisers)
    ]
    if any(texts is None for texts in heard):
        return None
    tally, kept = Tally(), []
    for row in rows:
        fate, text = verdict(row, [texts.get(row.id) for texts in heard], threshold)
        tally.add(row, fate, bool(text), difference(row.text, heard[0][row.id]) if fate == "carried over" else None)
        if text:
            kept.append(row.with_text(text))
    write(out, kept)
    return tally


def _heard(recogniser: Recogniser, rows: list[Row], out: Path, index: int, count: int) -> HEARD | None:
    """What a recogniser says about rows, now or in an earlier run; None while shards of other machines are missing."""
    from tqdm import tqdm

    listing = [f"{row.id} {row.path} {row.seconds} {row.text}" for row in rows]
    digest = hashlib.sha256("\n".join([recogniser.name, recogniser.settings, *listing]).encode()).hexdigest()
    folder = out.with_suffix(".parts") / f"{Path(recogniser.name).name}-{digest[:12]}"
    shards = {
        folder / f"{number:05d}.jsonl": rows[first : first + SHARD_ROWS]
        for number, first in enumerate(range(0, len(rows), SHARD_ROWS))
    }
    missing = [path for number, path in enumerate(shards) if number % count == index and not path.exists()]
    labeller = recogniser.load() if missing else None
    for path in tqdm(missing, desc=Path(recogniser.name).name, unit="shard", file=sys.stderr, disable=not missing):
        _write(path, transcribe(shards[path], labeller))
    if not all(path.exists() for path in shards):
        return None
    lines = (line for path in shards for line in path.read_text(encoding="utf-8").splitlines())
    return {said["id"]: said["text"] for said in map(json.loads, lines)}


def transcribe(rows: Sequence[Row], labeller: Labeller) -> HEARD:
    """What a labeller says about recordings; one that cannot be read is named on stderr and has None."""
    from asr.audio import AudioError, load

    waves = {}
    for row in rows:
        try:
            waves[row.id] = load(row.path)
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr)
    texts: HEARD = {row.id: None for row in rows}
    for known in (True, False):
        chosen = [row for row in rows if row.id in waves and bool(row.text) == known]
        references = [row.text for row in chosen] if known else None
        said = labeller.transcribe([waves[row.id] for row in chosen], references) if chosen else []
        texts.update((row.id, " ".join(text.split())) for row, text in zip(chosen, said, strict=True))
    return texts


def _write(path: Path, texts: HEARD) -> None:
    from asr.audio.io import atomic_path

    with atomic_path(path) as partial:
        lines = (json.dumps({"id": id, "text": text}, ensure_ascii=False) for id, text in texts.items())
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
