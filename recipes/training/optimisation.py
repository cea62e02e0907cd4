"""How weights change: the learning rate over a run and by part of the model, weight decay, averaging."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from recipes.training.muon import MuonAndAdamW, belongs, matrices_of


@dataclass
class Optimisation:
    """AdamW with warm-up, a constant stretch and linear decay to zero ("trapezoid") or a cosine.

    Muon takes the matrices of the parts named in `muon`: the inner layers, not embeddings and not the last layer.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    warmup: int = 500  # steps
    decay: float = 0.3  # share of the run over which the rate falls to `floor`
    schedule: str = "trapezoid"  # or "cosine"
    floor: float = 0.0  # share of the peak rate at the end
    muon: list[str] = field(default_factory=list)  # parts of the model, "branch.layers" for one

    def rate(self, step: int, steps: int) -> float:
        """Learning rate as a share of the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "cosine":
            progress = (step - self.warmup) / max(1, steps - self.warmup)
            return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        left = (steps - step) / max(1.0, steps * self.decay)
        return self.floor + (1 - self.floor) * max(0.0, min(1.0, left))


def parameter_groups(
    model: nn.Module, rates: dict[str, float], weight_decay: float, muon: Sequence[str] = ()
) -> list[dict]:
    """What an optimiser takes: matrices, then vectors, which do not decay, of the rest and of each part with a rate.

    The share of the learning rate is under "share"; under "muon", whether these are the matrices that Muon takes.

    Raises:
        ValueError: a part has no weights to train.
    """
    groups: dict[str, tuple[list, list, list]] = {name: ([], [], []) for name in ("", *rates)}
    by_muon = matrices_of(model, muon)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = max((p for p in groups if not p or belongs(name, p)), key=len)
            groups[part][2 if name in by_muon else parameter.ndim <= 1].append(parameter)
    for part in rates:
        if not any(groups[part]):
            raise ValueError(f"there is a learning rate for {part!r}, but no weight of that name is trained")
    return [
        {"params": parameters, "weight_decay": decay, "share": rates.get(part, 1.0), "muon": kind == 2}
        for part, kinds in groups.items()
        for kind, (parameters, decay) in enumerate(zip(kinds, (weight_decay, 0.0, weight_decay), strict=True))
        if parameters or kind < 2  # a checkpoint of a run without Muon has two groups a part
    ]


def freeze(model: nn.Module, parts: Sequence[str] | None) -> None:
    """Parts of a model stay as they are."""
    for part in parts or ():
        model.get_submodule(part).requires_grad_(False)


def make_optimiser(groups: list[dict], optimisation: Optimisation) -> torch.optim.Optimizer:
    """AdamW, or with Muon beside it where a group wants it; groups without "share", which the caller keeps."""
    options = {"lr": optimisation.learning_rate, "betas": tuple(optimisation.betas)}
    if any(group["muon"] for group in groups):
        return MuonAndAdamW(groups, **options)
    return torch.optim.AdamW([{k: v for k, v in g.items() if k != "muon"} for g in groups], **options, fused=True)


def moving_average(decay: float):
    """Exponential moving average whose memory grows with the run, so that early weights are soon forgotten."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        count = int(count)
        share = 1 - min(decay, (1 + count) / (10 + count))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, share)
            else:
                old.copy_(new)

    return update
