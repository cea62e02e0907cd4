"""Weights stored in 8 bits: a quarter of their size in float32, read back as floating-point numbers.

Each row of a matrix (an output channel, an embedding) is kept as int8 with a scale of its own, so that its largest
entry is exact to 1/254 of itself. Vectors, such as biases, are kept in half precision.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

SCALE = ".scale"  # behind the name of the weight that it belongs to
LEVELS = 127


def quantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and scales of a state dict; scales are [rows]. A weight of two names is kept once."""
    result, seen = {}, set()
    for name, value in state.items():
        if value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        if not value.is_floating_point():
            result[name] = value.contiguous()
        elif name.endswith("weight") and value.ndim > 1:
            scale = value.flatten(1).abs().amax(1).clamp(min=1e-8) / LEVELS
            shape = (-1, *[1] * (value.ndim - 1))
            result[name] = (value / scale.view(shape)).round().clamp(-LEVELS, LEVELS).to(torch.int8).contiguous()
            result[name + SCALE] = scale.float().contiguous()
        else:
            result[name] = value.half().contiguous()
    return result


def restored(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that `quantised` was given, up to rounding; other weights stay as they are."""
    result = {}
    for name, value in stored.items():
        if name.endswith(SCALE):
            continue
        scale = stored.get(name + SCALE)
        result[name] = value if scale is None else value.float() * scale.view(-1, *[1] * (value.ndim - 1))
    return result


def save(state: dict[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors in 8 bits."""
    from safetensors.torch import save_file

    save_file(quantised(state), path)


def load(path: str | Path, device: str = "cpu") -> dict[str, Tensor] | None:
    """The state dict of a safetensors file that holds 8-bit weights, None of any other."""
    from safetensors import safe_open

    with safe_open(path, "pt", device=device) as file:
        if not any(name.endswith(SCALE) for name in file.keys()):  # noqa: SIM118, a reader is no dict
            return None
        return restored({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
