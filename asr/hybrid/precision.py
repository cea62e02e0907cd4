"""Number formats of inference: what `--compute_type` chooses.

    float32    exact, the slowest
    bfloat16   weights and products in half the bits; fast where the processor has instructions for them
    int8       linear layers in 8 bits (`asr.hybrid.linear8`), all else in float32; on a CPU

"auto" is int8 on a processor with instructions for its products, bfloat16 on a GPU; elsewhere it times one linear layer
of the model's size in each and takes the fastest.
"""

from __future__ import annotations

import copy
import time
from contextlib import suppress
from functools import cache, partial

import torch
from torch import Tensor, nn

from asr.hybrid.decoder import TextDecoder
from asr.hybrid.denoiser import SlotLayers
from asr.hybrid.linear8 import in_eight_bits
from asr.hybrid.model import HybridModel

NO_KERNELS = (RuntimeError, NotImplementedError)  # what torch raises where it lacks a layer for a processor
PARTS = ("encoder", "branch", "decoder", "slots")
COMPUTE_TYPES = ("auto", "float32", "bfloat16", "int8")
ROUNDS = 6  # of trying
PRODUCTS_OF_8_BITS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8")  # instructions, as torch names them
FRAMES_A_STEP = 15  # encoder frames to a token of ordinary speech


def converted(model: HybridModel, compute_type: str, device: str) -> HybridModel:
    """The model for a compute type, in place; its `compute_type` says which was chosen.

    Raises:
        ValueError: the type is unknown, or is int8 where there is none: on a GPU and some processors.
    """
    if compute_type not in COMPUTE_TYPES:
        raise ValueError(f"compute_type is {compute_type!r}; choose one of {', '.join(COMPUTE_TYPES)}")
    on_cpu = torch.device(device).type == "cpu"
    if compute_type == "int8" and not on_cpu:
        raise ValueError(f"compute_type int8 is for a CPU; on {device} choose bfloat16 or float32")
    if compute_type == "auto":
        compute_type = best_on_cpu() if on_cpu else "bfloat16"
    try:
        for name in PARTS:
            if getattr(model, name) is not None:
                setattr(model, name, in_type(getattr(model, name), compute_type))
    except NO_KERNELS as error:
        raise ValueError(f"compute_type {compute_type}: this torch cannot do so on this processor ({error})") from error
    model.compute_type = compute_type
    return model


def in_type(part: nn.Module, compute_type: str) -> nn.Module:
    """A module in a number format."""
    if compute_type == "int8":
        return in_eight_bits(part)
    if compute_type == "bfloat16":
        exact = [part.norm, part.empty] if isinstance(part, SlotLayers) else []
        (part.layers if isinstance(part, TextDecoder) else part).bfloat16()
        for own in exact:  # before the output layer, where near ties are decided
            own.float()
    return part


def best_on_cpu() -> str:
    """int8 where the processor has vectors for it: it won there whenever the processor was free. Else the fastest.

    With AVX2 alone a recogniser takes 0.4 times what it takes in float32, with AVX-512 less.
    A busy processor is no judge: two programs must not write different texts because one was timed at a bad moment.
    """
    has = torch.cpu.get_capabilities()
    return "int8" if any(has.get(name) for name in PRODUCTS_OF_8_BITS) else fastest(COMPUTE_TYPES[1:])


@cache
def fastest(types: tuple[str, ...], width: int = 384, frames: int = 300) -> str:
    """The compute type in which this processor multiplies [frames, width] by [width, 4 width] fastest.

    The least time of many rounds, each of which tries all types: other work on the processor must not decide. Half of
    the work is on single frames, as half of a recogniser's is, since it writes token by token.
    """
    x, layer = torch.randn(frames, width), nn.Linear(width, 4 * width)
    runs, least = {}, {}
    for name in types:
        with suppress(*NO_KERNELS):
            own, own_x = in_type(copy.deepcopy(layer), name), x.bfloat16() if name == "bfloat16" else x
            _seconds(own, own_x)  # warms up
            runs[name] = partial(_seconds, own, own_x)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            least[name] = min(least.get(name, float("inf")), run())
    return min(least, key=least.__getitem__)


@torch.inference_mode()
def _seconds(layer: nn.Module, x: Tensor) -> float:
    start = time.thread_time()
    layer(x)
    for frame in x[: len(x) // FRAMES_A_STEP].split(1):
        layer(frame)
    return time.thread_time() - start
