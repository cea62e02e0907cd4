"""Adaptive convolution against the obvious ways to write it, layer by layer: time and peak memory.

    python -m recipes.benchmark adaptive_conv --out outputs/adaptive_conv
    python -m recipes.benchmark adaptive_conv --device cuda --out outputs/adaptive_conv
    python -m recipes.benchmark adaptive_conv --quick                       # seconds, to see that it works

Candidates: (a) unfold and einsum, (b) K parallel convolutions mixed afterwards, (c) frames folded into the groups of
one convolution, (d) the plain convolution with a single kernel, which is the floor; and ours. They take turns within
each repetition, after a warm-up, so all of them meet the same load; times are medians.

Clock: on a CPU with one thread this thread's processor time, so that other programs disturb little; wall time with
more threads; CUDA events on a GPU, with the L2 cache flushed before each.
Peak memory: bytes that the call allocates above what was there, outputs and what is kept for backward included: the
CUDA allocator's count, or torch.profiler's record of allocations on a CPU (oneDNN's own scratch is not in it).
Memory floor: the bytes of all tensors that must be read or written, once each; its time is at the bandwidth of a
large copy measured in the same run.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from asr.console.program import program
from recipes.benchmarks._clock import Stopwatch, peak_bytes
from recipes.benchmarks._convolutions import (
    ADAPTCRN,
    DENSE,
    OURS,
    PLAIN,
    STREAMING,
    TRAINING,
    Layer,
    Setting,
    make_inputs,
    plain,
)
from recipes.evaluation.side_by_side import make_parser, table


@dataclass
class Result:
    setting: str
    layer: str
    candidate: str
    forward_ms: float
    backward_ms: float | None
    both_ms: float | None
    forward_peak_mb: float
    both_peak_mb: float | None
    floor_forward_mb: float
    floor_both_mb: float | None
    floor_forward_ms: float
    floor_both_ms: float | None


@dataclass
class Times:
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)


# Measuring


def measure_times(layer: Layer, setting: Setting, candidates: dict, watch: Stopwatch) -> dict[str, Times]:
    """All candidates in turn, repetition after repetition; the first two are warm-up."""
    inputs = make_inputs(layer, setting, watch.device)
    times = {name: Times() for name in candidates}
    for repetition in range(setting.repetitions + 2):
        for name, candidate in candidates.items():
            forward, y = watch(lambda f=candidate: f(layer, *inputs))
            backward = watch(_backward(y, inputs))[0] if setting.backward else 0.0
            if repetition >= 2:
                times[name].forward.append(forward)
                times[name].backward.append(backward)
    return times


def _backward(y, inputs: list) -> Callable[[], object]:
    import torch

    used = [t for t in inputs if t.requires_grad]
    dy = torch.ones(y.shape, device=y.device)
    return lambda: torch.autograd.grad(y, used, dy, allow_unused=True)


def floor_bytes(layer: Layer, setting: Setting, backward: bool) -> int:
    """Bytes of the tensors that a pass must touch once; the backward pass also writes their gradients."""
    inputs = make_inputs(layer, setting, "cpu")
    y = plain(layer, *inputs)
    size = sum(t.nbytes for t in inputs)
    forward = size + y.nbytes
    return forward + (2 * size + y.nbytes if backward else 0)


def copy_bandwidth(watch: Stopwatch) -> float:
    """Bytes per second of a large copy, reading and writing."""
    import torch

    source = torch.ones(2**26 if watch.device == "cuda" else 2**24, device=watch.device)
    target = torch.empty_like(source)
    fastest = min(watch(lambda: target.copy_(source))[0] for _ in range(10))
    return 2 * source.nbytes / (fastest / 1e3)


def measure_layer(layer: Layer, setting: Setting, watch: Stopwatch, bandwidth: float) -> Iterator[Result]:
    candidates = TRAINING if setting.backward else STREAMING
    times = measure_times(layer, setting, candidates, watch)
    floor, floor_both = (floor_bytes(layer, setting, backward) for backward in (False, True))
    for name, candidate in candidates.items():
        inputs = make_inputs(layer, setting, watch.device)

        def forward(candidate=candidate, inputs=inputs):
            return candidate(layer, *inputs)

        def both(forward=forward, inputs=inputs):
            y = forward()
            return y, _backward(y, inputs)()

        t = times[name]
        result = Result(
            setting.name, layer.name, name,
            median(t.forward), median(t.backward), median(map(sum, zip(t.forward, t.backward, strict=True))),
            peak_bytes(forward, watch.device) / 1e6, peak_bytes(both, watch.device) / 1e6 if setting.backward else None,
            floor / 1e6, floor_both / 1e6, floor / bandwidth * 1e3, floor_both / bandwidth * 1e3,
        )  # fmt: skip
        if not setting.backward:
            result.backward_ms = result.both_ms = result.floor_both_mb = result.floor_both_ms = None
        yield result


# Reporting


def print_layer(results: list[Result]) -> None:
    first = results[0]
    floor = f"memory floor {first.floor_forward_mb:.2f} MB, {first.floor_forward_ms:.3f} ms"
    if first.both_ms is not None:
        floor += f" forward; {first.floor_both_mb:.2f} MB, {first.floor_both_ms:.3f} ms with backward"
    print(f"\n{first.setting}: {first.layer}   ({floor})")
    heads = ("candidate", "forward ms", "backward ms", "both ms", "forward MB", "both MB")
    rows = []
    for r in results:
        cells = (r.forward_ms, r.backward_ms, r.both_ms, r.forward_peak_mb, r.both_peak_mb)
        rows.append([r.candidate, *("-" if c is None else f"{c:.3f}" for c in cells)])
    print(table(heads, rows))
    print(f"  {verdict(results)}", flush=True)


def print_network(results: list[Result], setting: Setting) -> None:
    """The layers as often as the network has them."""
    count = {layer.name: layer.count for layer in setting.layers}
    print(f"\n{setting.name}: all {sum(count.values())} layers")
    totals = {
        name: sum(_total(r) * count[r.layer] for r in results if r.candidate == name)
        for name in dict.fromkeys(r.candidate for r in results)
    }
    print(table(("candidate", "ms"), [[name, f"{total:.3f}"] for name, total in totals.items()]), flush=True)


def _total(result: Result) -> float:
    return result.forward_ms if result.both_ms is None else result.both_ms


def verdict(results: list[Result]) -> str:
    """Ours against the best rival, or against the plain convolution where that is the only one."""
    time = {r.candidate: _total(r) for r in results}
    rivals = {name: ms for name, ms in time.items() if name not in (OURS, PLAIN)} or {PLAIN: time[PLAIN]}
    best = min(rivals, key=rivals.get)
    return f"ours takes {time[OURS] / rivals[best]:.2f} of {best}"


def write_csv(results: list[Result], path: Path) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(results[0])))
        writer.writeheader()
        writer.writerows(asdict(r) for r in results)


def plot(results: list[Result], path: Path) -> None:
    """Bars of time (forward and backward) and of peak memory for each layer, one colour for each candidate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    results = [r for r in results if r.both_ms is not None]
    layers = list(dict.fromkeys(r.layer for r in results))
    names = list(dict.fromkeys(r.candidate for r in results))
    figure = Figure(figsize=(1.4 * len(layers) + 2, 9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, value, label in zip(
        panels, ("both_ms", "both_peak_mb"), ("forward + backward [ms]", "peak memory [MB]"), strict=True
    ):
        for i, name in enumerate(names):
            heights = [getattr(r, value) for r in results if r.candidate == name]
            axes.bar([x + (i - len(names) / 2) * 0.16 for x in range(len(layers))], heights, 0.16, label=name)
        axes.set(yscale="log", ylabel=label)
        axes.grid(axis="y", alpha=0.3)
    floors = [next(r.floor_both_ms for r in results if r.layer == layer) for layer in layers]
    panels[0].hlines(floors, [x - 0.42 for x in range(len(layers))], [x + 0.42 for x in range(len(layers))], "k",
                     linewidth=1, label="memory floor")  # fmt: skip
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    panels[1].set_xticks(range(len(layers)), layers, rotation=30, ha="right")
    figure.savefig(path, format="png", dpi=120)


def settings(device: str, quick: bool) -> list[Setting]:
    """AdaptCRN trains on clips of 4 s (62 frames a second) on a CPU, of 10 s on a GPU; it streams frame by frame."""
    if quick:
        return [
            Setting("training", [ADAPTCRN[2], ADAPTCRN[3], ADAPTCRN[7]], 2, 32, 3),
            Setting("one frame", [ADAPTCRN[2]], 1, 1, 20, backward=False),
        ]
    batch, frames = (32, 625) if device == "cuda" else (8, 250)
    return [
        Setting("training", ADAPTCRN, batch, frames, 15),
        Setting("training, dense", DENSE, batch if device == "cuda" else 2, frames, 7),
        Setting("one frame", ADAPTCRN, 1, 1, 1000, backward=False),
    ]


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("adaptive_conv", __doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--out", type=Path, help="folder for adaptive_conv.csv and adaptive_conv.png")
    parser.add_argument("--quick", action="store_true", help="few small layers and repetitions")
    args = parser.parse_args(argv)

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces every start and stop otherwise
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU here: leave out --device cuda", file=sys.stderr)
        return 1
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    watch = Stopwatch(args.device)
    bandwidth = copy_bandwidth(watch)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, copies at {bandwidth / 1e9:.1f} GB/s")
    results = []
    for setting in settings(args.device, args.quick):
        first = len(results)
        for layer in setting.layers:
            with torch.set_grad_enabled(setting.backward):
                of_layer = list(measure_layer(layer, setting, watch, bandwidth))
            print_layer(of_layer)
            results += of_layer
        if setting.layers is not DENSE:
            print_network(results[first:], setting)
    if args.out:
        write_report(results, args.out)
    return 0


def write_report(results: list[Result], folder: Path) -> None:
    from asr.audio.io import atomic_path

    folder.mkdir(parents=True, exist_ok=True)
    for name, write in (("adaptive_conv.csv", write_csv), ("adaptive_conv.png", plot)):
        with atomic_path(folder / name) as temporary:
            write(results, temporary)
