"""What all benchmarks share: which recordings, error rates with intervals, clocks and memory, tables and files.

A benchmark (`recipes/benchmarks`) is a list of systems and measures. It puts every recording through every system in
turn, so that all of them meet the same load of the machine, and gives what it found to the functions here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from asr.audio.io import atomic_path

Interval = tuple[float, float]


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m recipes.benchmark NAME`."""
    return argparse.ArgumentParser(
        prog=f"python -m recipes.benchmark {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def spread(items: Sequence, limit: int | None) -> list:
    """At most so many items, evenly spread over all; None: all."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).astype(int)]


# -- error rates -------------------------------------------------------------------------------------------


def error_rows(references: list[str], systems: dict[str, list[str]], rivals: Iterable[str] = ()) -> dict[str, dict]:
    """Word error rates of each system.

    Args:
        references: texts of the recordings.
        systems: hypotheses by system, in the order of the references.
        rivals: systems that the others are compared with, where they are among `systems`.

    Returns:
        for each system `wer` and its 95 % `interval`, `cer`, and `minus`: by rival, the 95 % interval of the difference
        (paired bootstrap).
    """
    from asr.score import bootstrap_interval, error_counts, paired_bootstrap

    counts = {name: error_counts(references, texts) for name, texts in systems.items()}
    rivals = [rival for rival in dict.fromkeys(rivals) if rival in counts]
    return {
        name: {
            "wer": counts[name].rate,
            "interval": bootstrap_interval(counts[name]),
            "cer": error_counts(references, systems[name], "character").rate,
            "minus": {r: paired_bootstrap(counts[r], counts[name])[:2] for r in rivals if r != name},
        }
        for name in systems
    }


def difference_lines(rows: dict[str, dict], key: str = "minus") -> list[str]:
    """The differences of `error_rows` as sentences."""
    return [
        f"WER of {name} {key.replace('_', ' ')} {rival}: {signed(interval)} (95 %, paired bootstrap)"
        for name, row in rows.items()
        for rival, interval in row[key].items()
    ]


# -- clocks and memory -------------------------------------------------------------------------------------


def timed(call: Callable[[], object]) -> tuple[object, float]:
    """What a call returns and the seconds it took."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median of the repeats, after one to warm up; a call on a GPU must wait for its end."""
    return median([timed(call)[1] for _ in range(repeats + 1)][1:])


def real_time(spent: Sequence[float], audio: Sequence[float]) -> dict[str, float]:
    """Real-time factors of processing seconds over audio seconds: of all together, and the median and p95 of each."""
    factors = np.asarray(spent) / np.asarray(audio)
    return {
        "rtf": float(np.sum(spent) / np.sum(audio)),
        "rtf_median": float(np.median(factors)),
        "rtf_p95": float(np.percentile(factors, 95)),
    }


def peak_memory() -> float:
    """Of this process in MB, where the system tells it; `getrusage` would count the parent's memory too."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), float("nan"))


# -- tables and files --------------------------------------------------------------------------------------


def span(interval: Interval) -> str:
    """An interval of rates in per cent."""
    return "{:.2%}-{:.2%}".format(*interval)


def signed(interval: Interval) -> str:
    """An interval of differences in percentage points."""
    return "{:+.2%} to {:+.2%}".format(*interval)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells under heads; the first column is set to the left, the others to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    aligned = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    firsts = [line[0].ljust(widths[0]) for line in lines]
    return "\n".join("  ".join([first, *line[1:]]).rstrip() for first, line in zip(firsts, aligned, strict=True))


def write_json(path: Path, content: object) -> None:
    """Write JSON; the file appears whole."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_texts(folder: Path, ids: Iterable[str], systems: dict[str, list[str]]) -> None:
    """Write the hypotheses of each system as FOLDER/SYSTEM.tsv, which `asr.score` reads."""
    for name, texts in systems.items():
        lines = [f"{id}\t{text}" for id, text in zip(ids, texts, strict=True)]
        with atomic_path(folder / f"{name}.tsv") as partial:
            partial.write_text("\n".join(["id\ttext", *lines]) + "\n", encoding="utf-8")
