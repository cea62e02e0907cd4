"""Recordings with their source and length: read from tables, joined to one set, counted by source."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from recipes.data.corpora import COLUMNS, placed_rows, seen_from, write_rows


@dataclass(frozen=True)
class Row:
    """A recording of a table; `text` is "" where nobody wrote down what it says, `source` the corpus it is from."""

    id: str
    path: Path
    speaker: str
    source: str
    seconds: float
    text: str

    def with_text(self, text: str) -> Row:
        return replace(self, text=text)


def read(table: str | Path) -> list[Row]:
    """Rows of a table with columns id, path and, if known, speaker, source, seconds, text.

    Seconds that the table does not give are looked up in the files; one that cannot be read counts as 1 s, and whoever
    decodes it says why. Without a column `source` it is the name of the table.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a column is missing, the table has no row, or an id occurs twice.
    """
    rows, table = [], Path(table)
    for row in placed_rows(table):
        path = Path(row["path"])
        seconds = row.get("seconds") or _duration(path)
        about = row.get("speaker") or row["id"], row.get("source") or table.stem
        rows.append(Row(row["id"], path, *about, float(seconds), " ".join((row.get("text") or "").split())))
    if twice := [id for id, count in Counter(row.id for row in rows).items() if count > 1]:
        raise ValueError(f"{table}: the id {twice[0]} occurs twice; ids must differ")
    return rows


def _duration(path: Path) -> float:
    from asr.audio import AudioError, load
    from asr.audio.features import SAMPLING_RATE
    from asr.audio.io import duration

    try:
        return duration(path) or len(load(path)) / SAMPLING_RATE
    except AudioError:
        return 1.0


def write(table: Path, rows: Iterable[Row]) -> None:
    """Write rows as a table with columns id, path, speaker, source, seconds, text; the file appears whole."""
    fields = ({**vars(row), "path": seen_from(table, row.path), "seconds": f"{row.seconds:.2f}"} for row in rows)
    write_rows(table, fields, COLUMNS)


@dataclass
class Tally:
    """How many recordings of each source met which fate, and how many hours of them were kept."""

    recordings: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))  # "all" and "kept"
    differences: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, row: Row, fate: str, kept: bool, difference: float | None = None) -> None:
        """Count a recording.

        Args:
            fate: what became of it.
            kept: whether it is in the result.
            difference: between its text and what a recogniser heard.
        """
        self.recordings[row.source][fate] += 1
        self.seconds[row.source]["all"] += row.seconds
        self.seconds[row.source]["kept"] += row.seconds * kept
        if difference is not None:
            self.differences[row.source].append(difference)

    def count(self, fate: str) -> int:
        """Recordings of all sources with a fate."""
        return sum(counter[fate] for counter in self.recordings.values())

    def text(self) -> str:
        """A table, one line a source."""
        fates = sorted({fate for counter in self.recordings.values() for fate in counter})
        lines = [["source", *fates, "hours", "kept", *(["differs"] if self.differences else [])]]
        for source, counter in sorted(self.recordings.items()):
            hours = [f"{self.seconds[source][which] / 3600:.2f}" for which in ("all", "kept")]
            differences = self.differences.get(source)
            mean = [f"{sum(differences) / len(differences):.1%}"] if differences else []
            lines.append([source, *(str(counter[fate]) for fate in fates), *hours, *mean])
        total = [sum(s[which] for s in self.seconds.values()) / 3600 for which in ("all", "kept")]
        lines.append(["all", *(str(self.count(fate)) for fate in fates), *(f"{hours:.2f}" for hours in total)])
        widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(lines[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(line, widths, strict=False))) for line in lines
        )  # fmt: skip


def combine(tables: Sequence[str | Path], held_out: Sequence[str | Path] = (), unlabelled: bool = False) -> tuple:
    """One set out of several tables.

    Args:
        tables: in order of preference: of recordings with one id, the first with text is taken.
        held_out: tables whose recordings and speakers must not be in the set.
        unlabelled: keep recordings without text.

    Returns:
        the rows, and a `Tally` of what became of all.
    """
    kept_apart = [row for table in held_out for row in read(table)]
    ids, speakers = {row.id for row in kept_apart}, {row.speaker for row in kept_apart}
    rows = [row for table in tables for row in read(table)]
    chosen: dict[str, Row] = {}
    for row in rows:
        if row.id not in chosen or (row.text and not chosen[row.id].text):
            chosen[row.id] = row
    tally, kept = Tally(), []
    for row in rows:
        if chosen[row.id] is not row:
            fate = "twice"
        elif row.id in ids or row.speaker in speakers:
            fate = "held out"
        elif not row.text and not unlabelled:
            fate = "without text"
        elif not row.path.exists():
            fate = "missing file"
            print(f"left out: {row.path}: no such file", file=sys.stderr)
        else:
            fate = "taken"
            kept.append(row)
        tally.add(row, fate, fate == "taken")
    return kept, tally
