"""Weights stored in 8 bits: a quarter of their size in float32, read back as floating-point numbers.

Each row of a matrix (an output channel, an embedding) is kept as int8 with a scale of its own, so that its largest
entry is exact to 1/254 of itself. Vectors, such as biases, are kept in half precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
            scale = torch.linalg.vector_norm(value.flatten(1), torch.inf, 1).clamp(min=1e-8) / LEVELS
            shape = (-1, *[1] * (value.ndim - 1))
            result[name] = (value / scale.view(shape)).round_().clamp_(-LEVELS, LEVELS).to(torch.int8).contiguous()
            result[name + SCALE] = scale.float().contiguous()
        else:
            result[name] = value.half().contiguous()
    return result


def restored(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that `quantised` was given, up to rounding; other weights stay as they are."""
    return {name: _restored(stored[name], stored.get(name + SCALE)) for name in weights(stored)}


def weights(names: Iterable[str]) -> list[str]:
    """The names without those of scales; a weight that is itself called "scale" is one."""
    known = set(names)
    return sorted(n for n in known if not (n.endswith(SCALE) and n.removesuffix(SCALE) in known))


def _restored(value: Tensor, scale: Tensor | None) -> Tensor:
    return value if scale is None else value.float() * scale.view(-1, *[1] * (value.ndim - 1))


def save(state: dict[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors in 8 bits."""
    from safetensors.torch import save_file

    save_file(quantised(state), path)


def is_stored(path: str | Path) -> bool:
    """Whether a safetensors file holds 8-bit weights."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return len(weights(file.keys())) < len(file.keys())


def load(path: str | Path, device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Names and weights of a safetensors file that holds 8-bit weights, one after the other."""
    from safetensors import safe_open

    with safe_open(path, "pt", device=device) as file:
        names = set(file.keys())
        for name in weights(names):
            scale = file.get_tensor(name + SCALE) if name + SCALE in names else None
            yield name, _restored(file.get_tensor(name), scale)
