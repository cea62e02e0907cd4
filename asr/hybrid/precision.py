"""Number formats of inference on a CPU: what `--compute_type` chooses.

    float32    exact, the slowest
    bfloat16   products in half the bits; fast where the processor has instructions for them
    int8       weights of linear layers in 8 bits, activations quantised as they come

"auto" times one linear layer of the model's own size in each and takes the fastest; on a GPU it is bfloat16.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

COMPUTE_TYPES = ("auto", "float32", "bfloat16", "int8")


def prepare(model: nn.Module, compute_type: str, device: str) -> str:
    """Convert a model in place for a compute type; returns the type that was chosen.

    Raises:
        ValueError: the type is unknown, or is int8 on a GPU.
    """
    if compute_type not in COMPUTE_TYPES:
        raise ValueError(f"compute_type is {compute_type!r}; choose one of {', '.join(COMPUTE_TYPES)}")
    on_cpu = torch.device(device).type == "cpu"
    if compute_type == "int8" and not on_cpu:
        raise ValueError(f"compute_type int8 is for a CPU; on {device} choose bfloat16 or float32")
    if compute_type == "auto":
        compute_type = fastest() if on_cpu else "bfloat16"
    if compute_type == "int8":
        quantise(model)
    return compute_type


def computing(compute_type: str, device: str):
    """Context in which a model of that compute type runs."""
    if compute_type == "bfloat16":
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return contextlib.nullcontext()


@cache
def fastest(width: int = 384, frames: int = 500) -> str:
    """The compute type in which this processor multiplies [frames, width] by [width, 4 width] fastest."""
    x = torch.randn(frames, width)
    layer = nn.Linear(width, 4 * width)
    seconds = {"float32": _seconds(lambda: layer(x))}
    half, half_x = nn.Linear(width, 4 * width).bfloat16(), x.bfloat16()
    seconds["bfloat16"] = _seconds(lambda: half(half_x))
    return min(seconds, key=seconds.__getitem__)


@torch.inference_mode()
def _seconds(run: Callable[[], object], times: int = 5) -> float:
    """Least time of a few runs, after one to warm up."""
    run()
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def quantise(model: nn.Module) -> None:
    """Replace the linear layers of a model by dynamically quantised ones, in place."""
    from torch.ao.quantization import quantize_dynamic

    quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)
