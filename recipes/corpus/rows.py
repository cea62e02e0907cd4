"""What IN may be. Every kind is read row by row, so that its length does not show in memory.

A row is a dict with `id`, and as known: `path` (address of the recording), `start` and `seconds` (a cut out of it),
`text`, `speaker`, `bytes` (size of the file).
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable, Iterator

from asr.audio.formats import is_audio
from recipes.corpus.storage import is_remote, join, parent, split_address, walk

BATCH_ROWS = 1000  # of a Parquet file, in memory at once


def read_rows(address: str) -> Iterator[dict]:
    """Rows of a table (.tsv), lhotse cuts or JSON lines (.jsonl, .jsonl.gz), Parquet, text (.txt, .txt.xz; one
    utterance a line), a folder of these parts, a folder of recordings, or a single recording.

    Raises:
        FileNotFoundError: there is nothing at the address.
        ValueError: what is there cannot be read; the message says what is missing.
    """
    address = address if is_remote(address) else os.path.abspath(address)
    fs, path = split_address(address)
    if reader := _reader_of(address):
        if not fs.exists(path):
            raise FileNotFoundError(f"{address}: no such file")
        yield from _checked(reader(address), address)
    elif is_audio(address):
        yield {"id": address.rpartition("/")[2], "path": address}
    elif parts := _parts(fs, path):
        for part in parts:
            part = fs.unstrip_protocol(part) if is_remote(address) else part
            yield from _checked(_reader_of(part)(part), part)
    else:
        yield from _recordings(address, fs, path)


def _reader_of(address: str) -> Callable[[str], Iterator[dict]] | None:
    readers = {
        (".tsv",): _table,
        (".jsonl", ".jsonl.gz"): _json_lines,
        (".parquet",): _parquet,
        (".txt", ".txt.xz"): _text,
    }
    return next((reader for ends, reader in readers.items() if address.endswith(ends)), None)


def _parts(fs, path: str) -> list[str]:
    """The parts that another run of this program, or any other, left in a folder."""
    try:
        names = sorted(entry["name"] for entry in fs.ls(path, detail=True) if entry["type"] == "file")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [n for n in names if n.endswith((".parquet", ".jsonl")) and not n.rpartition("/")[2].startswith((".", "_"))]


def _checked(rows: Iterator[dict], address: str) -> Iterator[dict]:
    for number, row in enumerate(rows, 1):
        if row.get("error"):
            continue  # a row of an earlier run that came to nothing
        if not row.get("id"):
            raise ValueError(f"{address}: row {number} has columns {list(row)}; every row needs an id")
        yield {name: value for name, value in row.items() if value not in (None, "")}


@contextlib.contextmanager
def opened_text(address: str) -> Iterator[io.TextIOBase]:
    """A text file at any address; .gz and .xz are unpacked on the way."""
    fs, path = split_address(address)
    unpack = {"gz": gzip.open, "xz": lzma.open}.get(path.rpartition(".")[2])
    with fs.open(path, "rb") as raw:
        with unpack(raw, "rb") if unpack else contextlib.nullcontext(raw) as file:
            yield io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _table(address: str) -> Iterator[dict]:
    with opened_text(address) as file:
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if "id" not in (table.fieldnames or ()):
            raise ValueError(f"{address} has columns {table.fieldnames}: it needs a tab-separated column 'id'")
        yield from _placed(table, address)


def _json_lines(address: str) -> Iterator[dict]:
    with opened_text(address) as file:
        records = (json.loads(line) for line in file if line.strip())
        yield from _placed((_cut(record) if "recording" in record else record for record in records), address)


def _cut(cut: dict) -> dict:
    """A MonoCut of lhotse as a row."""
    said = (cut.get("supervisions") or [{}])[0]
    return {
        "id": cut["id"],
        "path": cut["recording"]["sources"][0]["source"],
        "start": cut.get("start", 0.0),
        "seconds": cut.get("duration"),
        "text": said.get("text"),
        "speaker": said.get("speaker"),
    }


def _parquet(address: str) -> Iterator[dict]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(f"{address} is Parquet: install pyarrow (pip install -e '.[ray]')") from None
    fs, path = split_address(address)
    with fs.open(path, "rb") as file:
        table = parquet.ParquetFile(file)
        if "id" not in table.schema_arrow.names:
            raise ValueError(f"{address} has columns {table.schema_arrow.names}: it needs a column 'id'")
        known = ("id", "path", "start", "seconds", "text", "speaker", "error", "shard", "offset", "size")
        columns = [name for name in table.schema_arrow.names if name in known]
        batches = table.iter_batches(BATCH_ROWS, columns=columns)
        yield from _placed((row for batch in batches for row in batch.to_pylist()), address)


def _placed(rows: Iterator[dict], address: str) -> Iterator[dict]:
    """Rows whose paths hold from anywhere: relative ones start at the table's folder or the folder above it."""
    folder, root = parent(address), None
    for row in rows:
        if path := row.get("path"):
            if root is None:
                above = parent(folder)
                root = above if not _exists(join(folder, path)) and above and _exists(join(above, path)) else folder
            row = {**row, "path": join(root, path)}
        yield {k: _number(v) if k in ("start", "seconds") else v for k, v in row.items()}


def _exists(address: str) -> bool:
    fs, path = split_address(address)
    return fs.exists(path)


def _number(value: str | float | None) -> float | None:
    return None if value in (None, "") else float(value)


def _text(address: str) -> Iterator[dict]:
    stem = address.rpartition("/")[2].partition(".")[0]
    with opened_text(address) as file:
        for number, line in enumerate(file):
            if line.strip():
                yield {"id": f"{stem}-{number}", "text": line.strip()}


def _recordings(address: str, fs, path: str) -> Iterator[dict]:
    """The recordings in a folder and the folders below, what is hidden excepted; a path relative to it is the id."""
    if not fs.exists(path):
        raise FileNotFoundError(f"{address}: no such file or folder")
    found = False
    for entry in walk(address):
        name = entry["name"]
        if is_audio(name):
            found = True
            place = fs.unstrip_protocol(name) if is_remote(address) else name
            yield {"id": name.removeprefix(path.rstrip("/") + "/"), "path": place, "bytes": entry.get("size")}
    if not found:
        raise ValueError(f"{address} holds neither recordings nor parts (.parquet, .jsonl)")
