"""Pictures of what an enhancer did: spectrograms before and after, and which kernels it chose when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.audio.features import SAMPLING_RATE, stft
from enhance.denoiser import Denoiser
from enhance.networks.adaptive import JointAttention
from enhance.networks.enhancer import Enhancer

LONGEST = 60.0  # seconds that a picture can show
FLOOR_DB = -80.0  # below the loudest bin


@contextmanager
def recorded_selections(enhancer: Enhancer) -> Iterator[dict[str, list[Tensor]]]:
    """While open, collect the kernel weights [B, T, K] of every adaptive layer under "block.layer"."""
    found: dict[str, list[Tensor]] = {}

    def keep(name: str):
        def hook(module, inputs, selection) -> None:
            for layer, weights in enumerate(selection.kernels):
                found.setdefault(f"{name}.{layer}", []).append(weights.detach())

        return hook

    modules = [(name, m) for name, m in enhancer.named_modules() if isinstance(m, JointAttention)]
    handles = [m.register_forward_hook(keep(name.removesuffix(".attention"))) for name, m in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def plot_enhancement(denoiser: Denoiser, source, path: str | Path) -> None:
    """Write a picture (PNG, SVG, PDF by extension) of the first minute of a recording and its enhanced version.

    Raises:
        ImportError: matplotlib is not installed.
        asr.audio.AudioError: the recording cannot be read.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from asr.audio.io import atomic_path

    noisy = _first_minute(source)
    with recorded_selections(denoiser.engine.core.enhancer) as selections:
        enhanced = denoiser(noisy, SAMPLING_RATE)
    figure = Figure(figsize=(12, 9 if selections else 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3 if selections else 2, 1, sharex=True)
    seconds = len(noisy) / SAMPLING_RATE
    loudest = _decibels(noisy).max()
    for axis, wave, title in zip(axes, (noisy, enhanced), ("before", "after"), strict=False):
        image = axis.imshow(
            _decibels(wave).T, origin="lower", aspect="auto", extent=(0, seconds, 0, SAMPLING_RATE / 2000),
            vmin=loudest + FLOOR_DB, vmax=loudest, cmap="magma",
        )  # fmt: skip
        axis.set(title=title, ylabel="kHz")
    figure.colorbar(image, ax=list(axes[:2]), label="dB")
    if selections:
        _draw_selections(axes[2], selections, seconds)
    axes[-1].set_xlabel("seconds")
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:] or "png", dpi=110)


def _draw_selections(axis, selections: dict[str, list[Tensor]], seconds: float) -> None:
    """One row per layer and kernel, light where the kernel has much weight."""
    weights = {name: torch.cat(chunks, 1)[0] for name, chunks in selections.items()}
    rows = torch.cat([w.T for w in weights.values()]).cpu().numpy()  # [layers * K, T]
    image = axis.imshow(
        rows, aspect="auto", extent=(0, seconds, len(rows), 0), vmin=0, vmax=rows.max(), cmap="viridis"
    )
    kernels = len(rows) // len(weights)
    blocks = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in weights))
    height = len(rows) / len(blocks)
    axis.set_yticks([(i + 0.5) * height for i in range(len(blocks))], blocks, fontsize=7)
    axis.set(title=f"weight of each of the {kernels} kernels in each layer")
    axis.figure.colorbar(image, ax=axis)


def _first_minute(source) -> np.ndarray:
    from asr.audio import Report, stream

    limit = int(LONGEST * SAMPLING_RATE)
    blocks = [block[:limit] for block in islice(stream(source, report=Report()), 16)]
    return np.concatenate(blocks)[:limit]


def _decibels(wave: np.ndarray) -> np.ndarray:
    """Magnitudes [frames, bins] in dB."""
    spectrum = stft(torch.from_numpy(wave)[None])[0].abs() if len(wave) > 256 else torch.zeros(1, 257)
    return (20 * (spectrum + 1e-6).log10()).numpy()
