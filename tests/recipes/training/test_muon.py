"""Muon beside AdamW: each steps as torch's own, and a run resumes to the same place."""

import copy

import pytest
import torch
from torch import nn

from recipes.training.optimisation import Optimisation, make_optimiser, parameter_groups


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    return nn.ModuleDict({"layers": layers, "head": nn.Linear(8, 5)})


def optimiser(model):
    groups = parameter_groups(model, {}, 0.01, ["layers"])
    for group in groups:
        group.pop("share")
    return make_optimiser(groups, Optimisation(0.02, muon=["layers"]))


def steps(model, optimisers, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        x, y = torch.randn(32, 8, generator=generator), torch.randint(5, (32,), generator=generator)
        nn.functional.cross_entropy(model["head"](model["layers"](x)), y).backward()
        for each in optimisers:
            each.step()
            each.zero_grad()


def test_each_weight_steps_as_with_its_own_optimiser():
    together, apart = network(), network()
    matrices = [p for name, p in apart.named_parameters() if name.startswith("layers") and p.ndim == 2]
    vectors = [p for p in apart.parameters() if p.ndim == 1]
    rivals = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([apart["head"].weight], 0.02, betas=(0.9, 0.98), weight_decay=0.01),
        torch.optim.AdamW(vectors, 0.02, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    steps(together, [optimiser(together)], 5)
    steps(apart, rivals, 5)
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_saved_state_goes_on_at_the_same_place():
    whole, first = network(), network()
    own, before = optimiser(whole), optimiser(first)
    steps(whole, [own], 3)
    steps(whole, [own], 2, seed=2)
    steps(first, [before], 3)
    second, state = network(), copy.deepcopy(before.state_dict())
    second.load_state_dict(first.state_dict())
    after = optimiser(second)
    after.load_state_dict(state)
    steps(second, [after], 2, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_the_rate_of_a_group_reaches_its_weights():
    model = network()
    own, before = optimiser(model), copy.deepcopy(model.state_dict())
    for group in own.param_groups:
        group["lr"] = 0.0 if group["muon"] else 0.02
    steps(model, [own], 1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layers.0.bias", "layers.2.bias", "head.weight", "head.bias"}


def test_a_part_without_matrices_is_named():
    with pytest.raises(ValueError, match="decoder"):
        parameter_groups(network(), {}, 0.0, ["decoder"])
    frozen = network()
    frozen["layers"].requires_grad_(False)
    with pytest.raises(ValueError, match="layers"):
        parameter_groups(frozen, {}, 0.0, ["layers"])
