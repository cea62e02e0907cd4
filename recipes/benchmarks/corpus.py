"""What Ray costs and what a second worker brings: one work on one corpus as a plain loop and with 1 and 2 workers.

    python -m recipes.benchmark corpus dev.tsv --minutes 30 --work transcribe

Each way is a fresh process with one thread a worker. `start` is the time until the first part is written (imports,
model, Ray), `steady` the speed after that; ratios are given for both. The load of the machine is noted before each run,
since two workers cannot be twice as fast beside other work; repeats are in turns and medians are taken.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from asr.console.program import program
from recipes.evaluation.side_by_side import make_parser, table, write_json

WAYS = {"plain": [], "ray 1": ["address=local", "workers=1"], "ray 2": ["address=local", "workers=2"]}


def shortened(table: Path, minutes: float, folder: Path) -> Path:
    """A table of the first recordings, repeated under other ids until they last so many minutes."""
    from asr.audio.io import duration
    from recipes.data.corpora import read_table

    recordings = read_table(table)
    lines, seconds, number = ["id\tpath\tseconds\ttext"], 0.0, 0
    while seconds < 60 * minutes:
        recording = recordings[number % len(recordings)]
        length = duration(recording.path) or 0.0
        lines.append(f"{number}-{recording.id}\t{recording.path.resolve()}\t{length}\t{recording.text}")
        seconds, number = seconds + length, number + 1
    path = folder / "table.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def measure(table: Path, out: Path, work: str, options: list[str]) -> dict:
    """The summary of one run in a process of its own, and the load before it."""
    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "recipes.corpus", work, str(table), str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.splitlines()[-1]}")
    return {**json.loads((out / "summary.json").read_text())["this_run"], "load": load}


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("corpus", __doc__)
    parser.add_argument("table", type=Path, help="recordings (.tsv with id, path, text)")
    parser.add_argument("--minutes", type=float, default=30.0, help="of speech")
    parser.add_argument("--work", default="transcribe", help="work of recipes.corpus")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--options", nargs="*", default=[], metavar="FIELD=VALUE", help="for every run")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args(argv)
    runs: dict[str, list[dict]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        recordings = shortened(args.table, args.minutes, Path(folder))
        for repeat in range(args.repeats):
            for name, how in WAYS.items():
                out = Path(folder, f"{name}-{repeat}".replace(" ", ""))
                runs[name].append(measure(recordings, out, args.work, ["part_seconds=60", *args.options, *how]))
                print(f"{name}: {json.dumps(runs[name][-1])}", file=sys.stderr)
    print_table(runs)
    if args.out:
        write_json(args.out, runs)
    return 0


def print_table(runs: dict[str, list[dict]]) -> None:
    def median(way: str, field: str) -> float:
        return statistics.median(run[field] for run in runs[way])

    fields = ("start_seconds", "wall_seconds", "steady_times_real_time")
    rows = []
    for way in runs:
        loads = " ".join(f"{run['load']:.1f}" for run in runs[way])
        rows.append([way, *(f"{median(way, field):.1f}" for field in fields), loads])
    print(table(("way", "start s", "whole s", "steady x real time", "load before"), rows))
    plain, one, two = ({f: median(way, f) for f in ("wall_seconds", "steady_times_real_time")} for way in runs)
    for field, better, name in (("steady_times_real_time", 1, "after the start"), ("wall_seconds", -1, "as a whole")):
        overhead = (plain[field] / one[field]) ** better - 1
        print(
            f"{name}: Ray costs {overhead:.1%}; two workers against one {(two[field] / one[field]) ** better:.2f} times"
        )


if __name__ == "__main__":
    sys.exit(main())
