"""Parts: groups of rows that are worked on together and whose results are one file, there whole or not at all.

The groups are cut from IN in its order, whatever is done already, and a part is named after its place and its ids. So
a part that is made twice, by a retry or by a worker that outlived its run, has the same name and is there once.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.corpus.storage import Folder

PART_ROWS = 1000  # at most, in a part
PLAN = "_plan.jsonl"
ASSUMED_SECONDS = 10.0  # of a recording whose length nobody knows before it is read
BYTES_A_SECOND = 32_000  # 16-bit samples at 16 kHz, to guess a length from a size
FORMATS = ("parquet", "jsonl")

Row = dict


def key(id: str) -> int:
    """64 bits that stand for an id: 10^8 of them take 0.8 GB, and two agree with a chance of 10^16 / 2^65."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")


def guessed_seconds(row: Row) -> float:
    if row.get("seconds"):
        return float(row["seconds"])
    return row["bytes"] / BYTES_A_SECOND if row.get("bytes") else ASSUMED_SECONDS


def grouped(rows: Iterable[Row], seconds: float) -> Iterator[list[Row]]:
    """Consecutive rows of together at most `seconds`, at least one and at most PART_ROWS."""
    group, total = [], 0.0
    for row in rows:
        length = guessed_seconds(row)
        if group and (total + length > seconds or len(group) == PART_ROWS):
            yield group
            group, total = [], 0.0
        group.append(row)
        total += length
    if group:
        yield group


def part_name(number: int, rows: list[Row], format: str) -> str:
    digest = hashlib.blake2b("\n".join(row["id"] for row in rows).encode(), digest_size=6).hexdigest()
    return f"part-{number:06d}-{digest}.{format}"


class Results:
    """The finished parts in OUT.

    Args:
        folder: OUT.
        format: "parquet" or "jsonl".
        columns: name and type of each column: string, int64, float64 or what pyarrow calls a type.
    """

    def __init__(self, folder: Folder, format: str, columns: dict[str, str]):
        if format not in FORMATS:
            raise ValueError(f"format is {format!r}; choose one of {', '.join(FORMATS)}")
        self.folder, self.format, self.columns = folder, format, columns

    def names(self) -> list[str]:
        return self.folder.names("part-", f".{self.format}")

    def write(self, name: str, rows: list[Row]) -> None:
        full = [{column: row.get(column) for column in self.columns} for row in rows]
        self.folder.write(name, self._parquet(full) if self.format == "parquet" else _json_lines(full))

    def read(self, name: str, columns: list[str] | None = None) -> list[Row]:
        if self.format == "parquet":
            import pyarrow.parquet as parquet

            with self.folder.open(name) as file:
                return parquet.read_table(file, columns=columns).to_pylist()
        rows = [json.loads(line) for line in self.folder.read(name).splitlines()]
        return [{c: row[c] for c in columns} for row in rows] if columns else rows

    def rows(self, columns: list[str] | None = None) -> Iterator[Row]:
        """All rows, part by part."""
        for name in self.names():
            yield from self.read(name, columns)

    def done(self) -> np.ndarray:
        """Sorted keys of the ids that have a row."""
        return np.sort(np.fromiter((key(row["id"]) for row in self.rows(["id"])), np.uint64))

    def forget_errors(self) -> None:
        """Take the rows with errors out of the parts, so that their ids count as not done."""
        for name in self.names():
            rows = self.read(name)
            if good := [row for row in rows if not row["error"]]:
                if len(good) < len(rows):
                    self.write(name, good)
            else:
                self.folder.remove(name)

    def _parquet(self, rows: list[Row]) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        fields = [(name, arrow_type(kind)) for name, kind in self.columns.items()]
        file = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), file, compression="zstd")
        return file.getvalue()


def arrow_type(kind: str):
    """A type of pyarrow from its name; "words" and "segments" are lists of what was said when."""
    import pyarrow as pa

    times = [("start", pa.float64()), ("end", pa.float64()), ("text", pa.string())]
    if kind == "segments":
        return pa.list_(pa.struct(times))
    if kind == "words":
        return pa.list_(pa.struct([*times, ("confidence", pa.float64())]))
    return pa.type_for_alias(kind)


def _json_lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@dataclass
class Plan:
    """The parts that are still to be made, in a file beside the results; a part is a line of it, read by its place.

    Args:
        folder: OUT.
        spans: first and last byte of each line, [parts, 2].
        total: rows of IN.
        missing: rows that are still to be worked on.
        seconds: of these rows, where IN says so.
    """

    folder: Folder
    spans: np.ndarray
    total: int = 0
    missing: int = 0
    seconds: float = 0.0

    @classmethod
    def make(cls, read: Callable[[], Iterable[Row]], results: Results, part_seconds: float) -> Plan:
        """Group the rows that `read` gives, leave out what is done and write the plan.

        Raises:
            ValueError: an id comes twice.
        """
        done, keys, spans, seconds, missing = results.done(), array("Q"), array("q"), 0.0, 0
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, PLAN)
            with open(path, "wb") as file:
                for number, group in enumerate(grouped(read(), part_seconds)):
                    group_keys = [key(row["id"]) for row in group]
                    keys.extend(group_keys)
                    new = [row for row, is_done in zip(group, _contains(done, group_keys), strict=True) if not is_done]
                    if not new:
                        continue
                    spans.append(file.tell())
                    line = {"part": part_name(number, new, results.format), "rows": new}
                    file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                    spans.append(file.tell())
                    missing += len(new)
                    seconds += sum(row.get("seconds") or 0.0 for row in new)
            _refuse_twins(np.frombuffer(keys, np.uint64), read)
            results.folder.write_file(PLAN, path)
        return cls(results.folder, np.array(spans, np.int64).reshape(-1, 2), len(keys), missing, seconds)

    def part(self, start: int, stop: int) -> tuple[str, list[Row]]:
        """Name and rows of the part at a place of the plan."""
        line = json.loads(self.folder.read(PLAN, start, stop))
        return line["part"], line["rows"]

    def remove(self) -> None:
        self.folder.remove(PLAN)


def _contains(sorted_keys: np.ndarray, wanted: list[int]) -> np.ndarray:
    wanted = np.array(wanted, np.uint64)
    if not len(sorted_keys):
        return np.zeros(len(wanted), bool)
    places = np.searchsorted(sorted_keys, wanted).clip(max=len(sorted_keys) - 1)
    return sorted_keys[places] == wanted


def _refuse_twins(keys: np.ndarray, read: Callable[[], Iterable[Row]]) -> None:
    """Raises ValueError: an id comes twice, so its results could not be told apart."""
    ordered = np.sort(keys)
    twins = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twins):
        first = next(row["id"] for row in read() if _contains(twins, [key(row["id"])])[0])
        raise ValueError(f"{len(twins)} rows have an id that came before, {first!r} among them: ids must be unique")
