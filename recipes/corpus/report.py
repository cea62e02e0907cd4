"""Progress on standard error while a run lasts, and the summary at its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable

from recipes.corpus.parts import Plan, Results

SUMMARY = "summary.json"


class Progress:
    """A bar of recordings with hours done, real-time factor of a worker, errors and time left."""

    def __init__(self, plan: Plan):
        from tqdm import tqdm

        interval = 0.5 if sys.stderr.isatty() else 30.0
        done = plan.total - plan.missing
        self.bar = tqdm(total=plan.total, initial=done, unit="rec", file=sys.stderr, mininterval=interval)
        self.seconds = self.busy = self.cpu = 0.0
        self.errors, self.started = 0, time.perf_counter()
        self.first: tuple[float, float] | None = None  # wall seconds and seconds of audio at the first report

    def add(self, report: dict) -> None:
        self.seconds += report["seconds"]
        self.busy += report["wall"]
        self.cpu += report["cpu"]
        self.errors += len(report["errors"])
        self.first = self.first or (time.perf_counter() - self.started, report["seconds"])
        for message in report["errors"] + report["damaged"]:
            self.bar.write(message, file=sys.stderr)
        factor = f"{self.busy / self.seconds:.3f}" if self.seconds else "-"
        self.bar.set_postfix_str(f"{self.seconds / 3600:.2f} h, rtf {factor}, {self.errors} errors", refresh=False)
        self.bar.update(report["rows"])

    def follow(self, reports: Iterable[dict]) -> None:
        """Show the reports as they come."""
        try:
            for report in reports:
                self.add(report)
        finally:
            self.bar.close()

    def as_dict(self) -> dict:
        """Of this run: hours of audio, wall seconds until the first part and in all, wall and CPU seconds of a worker
        for a second of audio, times real time as a whole and after the first part (loading and starting left out).
        """
        wall = time.perf_counter() - self.started
        start, before = self.first or (wall, self.seconds)
        return {
            "hours": self.seconds / 3600,
            "start_seconds": start,
            "wall_seconds": wall,
            "real_time_factor": self.busy / self.seconds if self.seconds else None,
            "cpu_factor": self.cpu / self.seconds if self.seconds else None,
            "times_real_time": self.seconds / wall,
            "steady_times_real_time": (self.seconds - before) / (wall - start) if wall > start else None,
        }


def summarise(results: Results, run: dict) -> dict:
    """Numbers of everything in OUT, written beside the parts, with those of the run that just ended."""
    counted = [name for name in results.columns if name.endswith(("word_errors", "reference_words"))]
    rows = errors = damaged = 0
    seconds, sums = 0.0, dict.fromkeys(counted, 0)
    missing = ["missing"] if "missing" in results.columns else []
    for row in results.rows(["seconds", "error", *missing, *counted]):
        rows += 1
        damaged += row.get("missing") is not None and row["error"] is None
        errors += row["error"] is not None
        seconds += 0.0 if row["error"] else row["seconds"] or 0.0
        for name in counted:
            sums[name] += row[name] or 0
    summary = {"recordings": rows, "errors": errors, "damaged": damaged, "hours": seconds / 3600, **sums}
    for start in ("", "normalised_"):
        if sums.get(f"{start}reference_words"):
            summary[f"{start}wer"] = sums[f"{start}word_errors"] / sums[f"{start}reference_words"]
    summary["this_run"] = run
    results.folder.write(SUMMARY, json.dumps(summary, indent=1).encode() + b"\n")
    return summary


def print_summary(summary: dict) -> None:
    run = summary["this_run"]
    damaged = f", {summary['damaged']} damaged" if summary["damaged"] else ""
    print(f"{summary['recordings']} recordings, {summary['hours']:.2f} h, {summary['errors']} errors{damaged}")
    for start, name in (("", "as said"), ("normalised_", "normalised (Whisper's English)")):
        if f"{start}wer" in summary:
            print(f"word error rate {name}: {summary[start + 'wer']:.2%}")
    if run["hours"]:
        print(
            f"this run: {run['hours']:.2f} h in {run['wall_seconds']:.0f} s, {run['times_real_time']:.0f} times real "
            f"time; real-time factor of a worker {run['real_time_factor']:.4f}, CPU {run['cpu_factor']:.4f}"
        )
