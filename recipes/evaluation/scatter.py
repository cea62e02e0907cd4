"""Error rate against speed: a point for each system, as PNG and as a page, or a line through values of one choice."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass
from pathlib import Path

from recipes.evaluation.figures import panels, save_png

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{font: 15px sans-serif; max-width: 60em; margin: 2em auto}} svg {{max-width: 100%; height: auto}}
td, th {{text-align: right; padding: .2em .7em}} td:first-child, th:first-child {{text-align: left}}</style>
<h1>{title}</h1>{svg}<table><tr>{head}</tr>{rows}</table><p>{note}</p></html>
"""


@dataclass(frozen=True)
class Point:
    label: str
    threads: int
    real_time_factor: float
    error_rate: float  # as a fraction


def write_scatter(folder: Path, title: str, points: list[Point], note: str) -> None:
    """Write scatter.png and scatter.html.

    Raises:
        ValueError: matplotlib is not installed.
    """
    from asr.audio.io import atomic_path

    figure, (axes,) = panels(1, 8, 5)
    for threads, marker in zip(sorted({p.threads for p in points}), "osD^v", strict=False):
        chosen = [p for p in points if p.threads == threads]
        across, up = [p.real_time_factor for p in chosen], [100 * p.error_rate for p in chosen]
        axes.scatter(across, up, marker=marker, label=f"{threads} thread{'s' * (threads > 1)}")
        for p, x, y in zip(chosen, across, up, strict=True):
            axes.annotate(p.label, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="real-time factor (left is faster)", ylabel="word error rate, normalised, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    save_png(figure, folder / "scatter.png", dpi=150)
    cells = [(p.label, str(p.threads), f"{p.real_time_factor:.4f}", f"{100 * p.error_rate:.2f} %") for p in points]
    page = PAGE.format(
        title=html.escape(title),
        svg=svg.getvalue()[svg.getvalue().index("<svg") :],
        head="".join(f"<th>{name}</th>" for name in ("system", "threads", "real-time factor", "word error rate")),
        rows="".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in cells),
        note=html.escape(note),
    )
    with atomic_path(folder / "scatter.html") as partial:
        partial.write_text(page, encoding="utf-8")


def draw_curve(path: Path, places: dict[str, tuple[float, float]], curve: list[str], across: str) -> None:
    """Write a PNG of systems at (time, error rate as a fraction); a line joins those of `curve`."""
    figure, (axes,) = panels(1, 8, 5)
    axes.plot([places[name][0] for name in curve], [100 * places[name][1] for name in curve], "o-")
    for name, (time, rate) in places.items():
        if name not in curve:
            axes.plot(time, 100 * rate, "s", color="C1")
        axes.annotate(name, (time, 100 * rate), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel=across, ylabel="word error rate, normalised, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    save_png(figure, path)
