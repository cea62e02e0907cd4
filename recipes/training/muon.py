"""Muon for the matrices inside a network, AdamW for everything else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class MuonAndAdamW(torch.optim.Optimizer):
    """Two of torch's optimisers behind one list of groups, so that rates and checkpoints need not know of it.

    Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") steps along the nearest
    orthogonal matrix to the momentum. Steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv 2502.16982,
    Sec. 2.2), so both share learning rate and weight decay.

    Args:
        groups: of parameters, each with "muon": whether Muon takes them; they then are matrices.
        lr: learning rate of groups that have none of their own.
        betas: of AdamW.
    """

    def __init__(self, groups: list[dict], lr: float, betas: tuple[float, float]):
        by_muon, rest = ([g for g in groups if g["muon"] is kind] for kind in (True, False))
        self.parts: dict[bool, torch.optim.Optimizer] = {}
        if by_muon:  # each fills the defaults of its kind into its groups
            self.parts[True] = torch.optim.Muon(by_muon, lr=lr, adjust_lr_fn="match_rms_adamw")
        if rest:
            self.parts[False] = torch.optim.AdamW(rest, lr=lr, betas=betas)
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        loss = None if closure is None else closure()
        for kind, part in self.parts.items():  # a loaded checkpoint brings groups and states of its own
            part.param_groups = [group for group in self.param_groups if group["muon"] is kind]
            part.state = self.state
            part.step()
        return loss


def belongs(name: str, part: str) -> bool:
    """Whether a weight is in a part of the model, both by their dotted names."""
    return f"{name}.".startswith(f"{part}.")


def matrices_of(model: nn.Module, parts: list[str]) -> set[str]:
    """Names of the trained matrices in parts of a model.

    Raises:
        ValueError: a part has none.
    """
    trained = [name for name, p in model.named_parameters() if p.requires_grad and p.ndim == 2]
    found: set[str] = set()
    for part in parts:
        own = {name for name in trained if belongs(name, part)}
        if not own:
            raise ValueError(f"optim.muon names {part!r}, but no matrix of that name is trained")
        found |= own
    return found
