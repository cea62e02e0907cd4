"""How much an enhancer computes and how fast it is.

    python -m enhance.speed                       # the compact AdaptCRN
    python -m enhance.speed --model adaptcrn.onnx

Prints a table and, with `--output`, JSON: parameters, multiply-accumulates a second of audio, the real-time
factor of a whole recording, and that of single hops (16 ms) with and without STFT, as mean, median, 95th percentile
and maximum. One thread, one channel.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from asr.console.program import program

COUNTER = "multiply-accumulates of convolutions, kernel assembly, linear layers, GRUs and ERB matrices"


def count_macs(enhancer) -> dict[str, float]:
    """Multiply-accumulates per second of audio by part, in millions, and their `total`.

    Counted are convolutions, the assembly of adaptive kernels (K per weight and frame), linear layers, GRUs (the
    matrix products) and the ERB matrices. Normalisations, activations, masks and the STFT are not. Other tools
    count differently: the paper prints 40.80 M/s for AdaptCRN without naming its counter.
    """
    import torch
    from torch import nn

    from enhance.networks.adaptive import KernelBank
    from enhance.networks.bands import ErbBands

    counts = dict.fromkeys(("convolution", "assembly", "linear", "gru", "erb"), 0)

    def bank(module, inputs, output):
        spatial = inputs[0] if module.transposed else output
        counts["convolution"] += spatial[:, 0].numel() * module.weight[0].numel()
        if module.num_kernels > 1:
            counts["assembly"] += output.shape[0] * output.shape[2] * module.weight.numel()

    def linear(module, inputs, output):
        counts["linear"] += output.numel() * module.in_features

    def gru(module, inputs, output):
        weights = sum(p.numel() for name, p in module.named_parameters() if name.startswith("weight"))
        counts["gru"] += inputs[0][..., 0].numel() * weights

    def erb(module, x):
        counts["erb"] += x[..., 0].numel() * module.matrix.numel()

    hooks = {KernelBank: bank, nn.Linear: linear, nn.GRU: gru}
    handles = [m.register_forward_hook(hooks[type(m)]) for m in enhancer.modules() if type(m) in hooks]
    bands = [m for m in enhancer.modules() if isinstance(m, ErbBands)]
    frames = 100
    try:
        for module in bands:
            module.merge, module.spread = (
                _counted(module.merge, module, erb),
                _counted(module.spread, module, erb),
            )
        with torch.inference_mode():
            enhancer(torch.zeros(1, frames, enhancer.fft_size // 2 + 1, 2))
    finally:
        for handle in handles:
            handle.remove()
        for module in bands:
            del module.merge, module.spread
    per_second = enhancer.sampling_rate / enhancer.hop / frames / 1e6
    counts = {name: count * per_second for name, count in counts.items()}
    return counts | {"total": sum(counts.values())}


def _counted(function: Callable, module, count: Callable) -> Callable:
    def wrapped(x):
        count(module, x)
        return function(x)

    return wrapped


def streaming_factors(enhancer, seconds: float = 10.0, stft: bool = True) -> dict[str, float]:
    """Real-time factors of single hops on noise: mean, median, p95 and max of compute time over hop time."""
    import numpy as np
    import torch

    from enhance.networks.overlap_add import OverlapAdd

    core = OverlapAdd(enhancer.fold())
    hops = int(seconds * enhancer.sampling_rate / enhancer.hop)
    blocks = 0.1 * torch.randn(hops, 1, enhancer.hop)
    spectrum = core.analyse(blocks[0], core.start().history)[0]
    state, inner, times = core.start(), {}, []
    with torch.inference_mode():
        for block in blocks:
            start = time.perf_counter()
            if stft:
                _, state = core.step(block, state)
            else:
                _, inner = core.enhance(spectrum, inner)
            times.append(time.perf_counter() - start)
    factors = np.array(times[10:]) * enhancer.sampling_rate / enhancer.hop
    p95 = float(np.percentile(factors, 95))
    return {
        "mean": float(factors.mean()),
        "median": float(np.median(factors)),
        "p95": p95,
        "max": float(factors.max()),
    }


def offline_factor(enhancer, seconds: float = 30.0, repeats: int = 3) -> float:
    """Real-time factor of a whole recording, the best of a few runs."""
    import torch

    from enhance.networks.overlap_add import OverlapAdd

    core, wave = OverlapAdd(enhancer.fold()), 0.1 * torch.randn(1, int(seconds * enhancer.sampling_rate))

    def timed() -> float:
        start = time.perf_counter()
        core.whole(wave)
        return time.perf_counter() - start

    return min(timed() for _ in range(repeats)) / seconds


def measure(name: str | None) -> dict:
    """All numbers of the enhancer called `name` (see `enhance.load_enhancer`)."""
    import torch

    from enhance.loading import load_enhancer

    torch.set_num_threads(1)
    enhancer = load_enhancer(name)
    result: dict = {"model": str(name or "adaptcrn")}
    if isinstance(enhancer, torch.nn.Module):
        result["parameters"] = sum(p.numel() for p in enhancer.parameters())
        result["macs_M_per_s"] = count_macs(enhancer) | {"counter": COUNTER}
    result["offline_rtf"] = offline_factor(enhancer)
    result["hop_rtf"] = streaming_factors(enhancer, stft=False)
    result["hop_rtf_with_stft"] = streaming_factors(enhancer)
    return result


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m enhance.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", help="architecture, folder, hub id or .onnx file; default: the compact AdaptCRN"
    )
    parser.add_argument("--output", type=Path, help="also write JSON")
    args = parser.parse_args(argv)
    try:
        result = measure(args.model)
    except (OSError, ValueError, ImportError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    for name, value in result.items():
        parts = value.items() if isinstance(value, dict) else ((None, value),)
        for part, number in parts:
            shown = f"{number:.4g}" if isinstance(number, float) else number
            print(f"{name if part is None else f'{name} {part}':32} {shown}")
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
