"""Choose the clean recordings of a table by their DNSMOS: read aloud is not yet recorded well.

    python -m recipes.choose_clean more_speech/speech.tsv data/clean.tsv --source "common voice" --background 4.0
    python -m recipes.choose_clean more_speech/speech.tsv data/read.tsv  --source librispeech lj --no_scores

The result is a table with the columns path (absolute), split, kind and the scores, as `python -m recipes.mix` takes
it. Scores are kept beside it, in NAME.scores.tsv, so that an interrupted run goes on and other thresholds cost nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from asr.console.program import program

SCORES = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")
COLUMNS = ("path", "split", "kind", *SCORES)


def chosen_rows(table: Path, sources: list[str] | None) -> list[Path]:
    """Recordings of a table, where a column `source` contains one of the names if some are given.

    Raises:
        ValueError: the table has no column path, or no row is left.
    """
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if rows and "path" not in rows[0]:
        raise ValueError(f"{table} has columns {', '.join(rows[0])}; it needs a tab-separated column 'path'")
    if sources:
        rows = [r for r in rows if any(s.lower() in r.get("source", "").lower() for s in sources)]
    if not rows:
        raise ValueError(f"{table}: no recording of {' or '.join(sources) if sources else 'any source'}")
    root = next((r for r in (table.parent, table.parent.parent) if (r / rows[0]["path"]).exists()), table.parent)
    return [(root / row["path"]).resolve() for row in rows]


def scored(paths: list[Path], memory: Path) -> Iterator[dict[str, str]]:
    """Path and scores of every recording that can be read; what the file `memory` holds is not computed again."""
    from tqdm import tqdm

    from asr.audio import AudioError, load
    from enhance.metrics import dnsmos

    known = {row["path"]: row for row in _read(memory)}
    memory.parent.mkdir(parents=True, exist_ok=True)
    with open(memory, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("path", *SCORES), delimiter="\t")
        if not known:
            writer.writeheader()
        for path in tqdm(paths, unit="recording", file=sys.stderr):
            if str(path) not in known:
                try:
                    scores = dnsmos(load(path))
                except AudioError as error:
                    tqdm.write(f"left out: {error}", file=sys.stderr)
                    continue
                known[str(path)] = {"path": str(path), **{name: f"{scores[name]:.3f}" for name in SCORES}}
                writer.writerow(known[str(path)])
                file.flush()
            yield known[str(path)]


def _read(memory: Path) -> list[dict[str, str]]:
    if not memory.exists():
        return []
    with open(memory, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row for row in rows if all(row.get(name) for name in SCORES)]  # an interrupted run may end within a line


def write_table(target: Path, rows: list[dict[str, str]]) -> None:
    from asr.audio.io import atomic_path

    with atomic_path(target) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", restval="")
        writer.writeheader()
        writer.writerows({**row, "split": "train", "kind": "clean"} for row in rows)


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.choose_clean", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="tab-separated table of recordings with a column path")
    parser.add_argument("out", type=Path, help="table to write")
    parser.add_argument("--source", nargs="+", metavar="NAME", help="only rows whose column source contains a name")
    parser.add_argument("--background", type=float, default=4.0, help="least score of the background, 1 to 5")
    parser.add_argument("--signal", type=float, default=3.4, help="least score of the speech itself, 1 to 5")
    parser.add_argument("--no_scores", action="store_true", help="take all rows of the sources")
    args = parser.parse_args(argv)
    try:
        paths = chosen_rows(args.table, args.source)
        if args.no_scores:
            kept = [{"path": str(path)} for path in paths]
        else:
            limits = {"dnsmos_bak": args.background, "dnsmos_sig": args.signal}
            rows = scored(paths, args.out.with_suffix(".scores.tsv"))
            kept = [row for row in rows if all(float(row[name]) >= least for name, least in limits.items())]
        write_table(args.out, kept)
    except (OSError, ValueError, ImportError) as error:
        print(f"recipes.choose_clean: {error}", file=sys.stderr)
        return 2
    print(f"{len(kept)} of {len(paths)} recordings: {args.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
