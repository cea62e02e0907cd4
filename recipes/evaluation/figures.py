"""Figures of measurements: a row of panels, written as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels side by side, each of a size in inches.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("the plot needs matplotlib: pip install matplotlib, or leave out --out") from None
    figure = Figure(figsize=(width * count, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def save_png(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure; the file appears whole or not at all."""
    from asr.audio.io import atomic_path

    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi)
