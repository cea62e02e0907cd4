"""Adaptive convolution on a GPU: the Triton kernels against torch's operators, as they are and through torch.compile.

    python -m recipes.benchmark adaptive_conv_gpu --out outputs/adaptive_conv_gpu
    python -m recipes.benchmark adaptive_conv_gpu --seconds 30      # what is not begun by then is left out

Layers of AdaptCRN as it trains on clips of 4 s, and denser ones. Medians in ms of `triton.testing.do_bench`, which
flushes the L2 cache before each call: forward alone, and forward with all gradients; frequent layers first. Candidates:
unfold and einsum (`kernels.naive`), the same compiled, K parallel convolutions mixed afterwards, the plain convolution
with one kernel, which is the floor, and ours. Between them the whole network, forward with gradients, its layers by
either.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

from asr.console.program import program
from recipes.benchmarks._convolutions import (
    ADAPTCRN,
    DENSE,
    OURS,
    PLAIN,
    Layer,
    Setting,
    k_convolutions,
    make_inputs,
    ours,
    plain,
    unfold_einsum,
)
from recipes.evaluation.side_by_side import make_parser, table

FRAMES = 251  # of 4 s
COMPILED = "unfold, einsum, compiled"
Clock = Callable[[Callable[[], object]], float]


@dataclass
class Result:
    layer: str
    candidate: str
    forward_ms: float | None
    both_ms: float


def candidates(compiled: bool) -> dict[str, Callable]:
    import torch

    found = {"unfold, einsum": unfold_einsum, "K convolutions": k_convolutions, PLAIN: plain, OURS: ours}
    if compiled:
        torch.compiler.reset()  # it gives up on a function that it has compiled for too many shapes
        found[COMPILED] = torch.compile(unfold_einsum, dynamic=False)
    return found


def measure_layer(layer: Layer, batch: int, frames: int, device: str, clock: Clock, compiled: bool) -> list[Result]:
    """Every candidate on one layer; one that fails (too little memory, say) is reported and left out."""
    import torch

    inputs = make_inputs(layer, Setting("training", [layer], batch, frames, 1), device)
    results = []
    for name, candidate in candidates(compiled).items():
        call = partial(candidate, layer, *inputs)
        try:
            with torch.no_grad():
                forward = clock(call)
            results.append(Result(layer.name, name, forward, clock(with_gradients(call, inputs))))
        except RuntimeError as error:
            print(f"{layer.name}, {name}: left out ({str(error).splitlines()[0][:100]})", file=sys.stderr)
    return results


def with_gradients(call: Callable[[], object], inputs: list) -> Callable[[], object]:
    import torch

    y = call()
    dy = torch.ones_like(y.detach())
    used = [t for t in inputs if t.requires_grad]
    return lambda: torch.autograd.grad(call(), used, dy, allow_unused=True)


def measure_network(
    batch: int, frames: int, device: str, clock: Clock, backends: tuple[str, ...] = ("triton", "naive")
) -> list[Result]:
    """AdaptCRN, forward with all gradients, its layers by each backend."""
    import torch

    from enhance import AdaptCRN

    network = AdaptCRN().to(device).train()
    spectrum = torch.randn(batch, frames, 257, 2, device=device)

    def step():
        return torch.autograd.grad(network(spectrum)[0].square().mean(), list(network.parameters()))

    results = []
    for backend in backends:
        with patch.dict(os.environ, {"ADAPTIVE_CONV_BACKEND": backend}):
            results.append(Result("AdaptCRN", backend, None, clock(step)))
    return results


def report(results: list[Result]) -> str:
    rows = [
        (r.layer, r.candidate, "-" if r.forward_ms is None else f"{r.forward_ms:.3f}", f"{r.both_ms:.3f}")
        for r in results
    ]
    return table(("layer", "candidate", "forward ms", "with gradients ms"), rows)


@program
def main(argv: list[str] | None = None) -> int:
    parser = make_parser("adaptive_conv_gpu", __doc__)
    parser.add_argument("--batch", type=int, default=64, help="clips of 4 s (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=600.0, help="begin nothing after so long")
    parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="folder for adaptive_conv_gpu.json")
    args = parser.parse_args(argv)

    import torch

    if not torch.cuda.is_available():
        print("no CUDA GPU here: `python -m recipes.benchmark adaptive_conv` measures on a CPU", file=sys.stderr)
        return 1
    from triton.testing import do_bench

    started, results = time.perf_counter(), []
    clock = partial(do_bench, warmup=5, rep=40, return_mode="median")
    measures = [
        partial(measure_layer, layer, args.batch, FRAMES, "cuda", clock, not args.no_compile)
        for layer in dict.fromkeys((ADAPTCRN[2], ADAPTCRN[7], DENSE[0], *ADAPTCRN, *DENSE))
    ]
    measures.insert(3, partial(measure_network, args.batch, FRAMES, "cuda", clock))  # before the time is up
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, batch {args.batch}, {FRAMES} frames")
    for measure in measures:
        if time.perf_counter() - started > args.seconds:
            break
        found = measure()
        print(report(found), flush=True)
        results += found
        if args.out:
            write(results, args.out / "adaptive_conv_gpu.json")
    return 0


def write(results: list[Result], path: Path) -> None:
    from asr.audio.io import atomic_path

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial_file:
        partial_file.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n", encoding="utf-8")
