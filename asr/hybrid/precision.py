"""Number formats of inference: what `--compute_type` chooses.

    float32    exact, the slowest
    bfloat16   weights and products in half the bits; fast where the processor has instructions for them
    int8       weights of linear layers in 8 bits, activations quantised as they come; on a CPU

"auto" times one linear layer of the model's size in each and takes the fastest; on a GPU it is bfloat16.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

COMPUTE_TYPES = ("auto", "float32", "bfloat16", "int8")


def converted(model: nn.Module, compute_type: str, device: str) -> nn.Module:
    """The model for a compute type; its `compute_type` says which was chosen.

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
        model = quantised(model)
    elif compute_type == "bfloat16":
        model = model.bfloat16()
    model.compute_type = compute_type
    return model


@cache
def fastest(width: int = 384, frames: int = 300) -> str:
    """The compute type in which this processor multiplies [frames, width] by [width, 4 width] fastest."""
    x, layer = torch.randn(frames, width), nn.Linear(width, 4 * width)
    inputs = {"float32": x, "bfloat16": x.bfloat16(), "int8": x}
    layers = {name: converted(nn.Sequential(copy.deepcopy(layer)), name, "cpu") for name in inputs}
    seconds = {name: _seconds(lambda name=name: layers[name](inputs[name])) for name in inputs}
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


def quantised(model: nn.Module) -> nn.Module:
    """The model with its linear layers dynamically quantised."""
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a later torch replaces
        return quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)
