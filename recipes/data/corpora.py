"""Corpora as plain tables: what is read, where it lies, what is said.

A table is a tab-separated file with a header and columns id, path, text and, if known, speaker. LibriSpeech is
downloaded by torchaudio and written as such tables; lhotse cut manifests are read as they are.
"""

from __future__ import annotations

import csv
import lzma
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

COLUMNS = ("id", "path", "speaker", "source", "seconds", "text")  # of the tables that the steps here write
LIBRISPEECH_PARTS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
)


@dataclass(frozen=True)
class Recording:
    """One utterance of a corpus; `start` and `seconds` cut it out of a longer file (None: the whole file)."""

    id: str
    path: Path
    speaker: str
    text: str
    start: float = 0.0
    seconds: float | None = None

    def wave(self) -> np.ndarray:
        """Float32 [samples] at 16 kHz. Raises AudioError when the file cannot be used."""
        from asr.audio import load
        from asr.audio.features import SAMPLING_RATE

        wave = load(self.path)
        first = round(self.start * SAMPLING_RATE)
        last = None if self.seconds is None else first + round(self.seconds * SAMPLING_RATE)
        return wave[first:last]


def read_table(table: str | Path) -> list[Recording]:
    """Recordings of a table (.tsv), a lhotse cut manifest (.jsonl, .jsonl.gz), Parquet or a folder of labels.

    Paths in a table are relative to its folder or, failing that, to the folder above it.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a column is missing or the table has no row.
    """
    table = Path(table)
    if table.is_dir() or table.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        return _read_other(table)
    rows = placed_rows(table, ("id", "path", "text"))
    return [Recording(r["id"], Path(r["path"]), r.get("speaker") or r["id"], r["text"]) for r in rows]


def placed_rows(table: str | Path, needed: Sequence[str] = ("id", "path")) -> list[dict[str, str]]:
    """Rows of a table with paths that lead to the files: relative to its folder or, failing that, to the folder above.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a needed column is missing or the table has no row.
    """
    table, rows = Path(table), read_rows(table)
    if not rows:
        raise ValueError(f"{table} has no rows: a training table needs at least one utterance")
    for column in needed:
        if column not in rows[0]:
            raise ValueError(f"{table} has columns {list(rows[0])}: it needs a tab-separated column '{column}'")
    root = next((r for r in (table.parent, table.parent.parent) if (r / rows[0]["path"]).exists()), table.parent)
    return [{**row, "path": str(root / row["path"])} for row in rows]


def read_rows(table: str | Path) -> list[dict[str, str]]:
    """Rows of a tab-separated file with a header."""
    with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def write_table(path: Path, recordings: list[Recording]) -> None:
    """Write a table, paths relative to its folder where they lie below it; the file appears whole."""
    rows = [{"id": r.id, "path": seen_from(path, r.path), "speaker": r.speaker, "text": r.text} for r in recordings]
    write_rows(path, rows, ("id", "path", "speaker", "text"))


def seen_from(table: Path, file: Path) -> str:
    """The path of a file as a table gives it: relative where it lies below the table's folder, else absolute."""
    return str(file.relative_to(table.parent) if file.is_relative_to(table.parent) else file.resolve())


def write_rows(path: Path, rows: Iterable[dict[str, str]], columns: Sequence[str]) -> None:
    """Write rows as a tab-separated file with a header; tabs and line breaks in a field become spaces."""
    from asr.audio.io import atomic_path

    lines = ["\t".join(columns)]
    lines += ["\t".join(re.sub(r"[\t\r\n]+", " ", str(row.get(column, ""))) for column in columns) for row in rows]
    with atomic_path(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def _read_other(place: Path) -> list[Recording]:
    """Recordings of what `recipes.corpus` reads and writes; rows without recording or text are left out."""
    from recipes.corpus.rows import read_rows

    return [
        Recording(
            row["id"],
            Path(row["path"]),
            row.get("speaker") or row["id"],
            row["text"],
            row.get("start", 0.0),
            row.get("seconds") if "start" in row else None,
        )
        for row in read_rows(str(place))
        if "path" in row and "text" in row
    ]


def prepare_librispeech(root: Path, parts: list[str]) -> list[Path]:
    """Download parts of LibriSpeech (resumed and verified by torchaudio) and write a table for each."""
    from torchaudio.datasets import LIBRISPEECH

    from asr.text.tokenizer import normalise_text

    tables = []
    root.mkdir(parents=True, exist_ok=True)
    for part in parts:
        table = root / f"{part}.tsv"
        tables.append(table)
        if table.exists():
            continue
        dataset, recordings = LIBRISPEECH(str(root), url=part, download=True), []
        for index in range(len(dataset)):
            path, _, text, speaker, chapter, number = dataset.get_metadata(index)
            name = f"{speaker}-{chapter}-{number:04d}"
            recordings.append(Recording(name, root / "LibriSpeech" / path, str(speaker), normalise_text(text)))
        write_table(table, recordings)
        print(f"{part}: {len(recordings)} utterances in {table}", file=sys.stderr)
    return tables


def read_noises(table: str | Path | None, split: str = "train") -> list[np.ndarray]:
    """Noise waves at 16 kHz listed in a table with columns path, split and kind (rows of kind "noise").

    A recording that cannot be decoded is named on stderr and left out.
    """
    from asr.audio import AudioError, load

    waves = []
    for row in read_rows(table) if table else []:
        if row["kind"] == "noise" and row["split"] == split:
            try:
                waves.append(load(Path(table).parent / row["path"]))
            except AudioError as error:
                print(f"left out: {error}", file=sys.stderr)
    return waves


def read_sentences(path: str | Path) -> list[str]:
    """Sentences of a text file, one a line; .xz is read as it is."""
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8-sig") as file:
        return [line.strip() for line in file if line.strip()]
