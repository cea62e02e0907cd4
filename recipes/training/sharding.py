"""Weights, gradients and optimiser states split over the processes (FSDP2), for models that one GPU cannot train.

PyTorch's `fully_shard` (Zhao et al. 2023, "PyTorch FSDP") keeps 1/N of every weight on each of N processes and gathers
a layer only while it computes. Checkpoints hold whole tensors all the same, so that a run may go on with another number
of processes, or without sharding. It suits models whose layers are called as modules, as those of transformers are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The elements of the outermost module lists: the layers of encoders and language models."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from repeated_blocks(child)


def split(module: nn.Module, device: str) -> nn.Module:
    """Split the weights of a module over all processes, in place; each repeated block is gathered on its own.

    Raises:
        ValueError: there is only one process, or a weight has no dimension to split.
    """
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized() or dist.get_world_size() == 1:
        raise ValueError("trainer.shard=true splits the model over processes: start with torchrun --nproc_per_node=N")
    mesh = dist.device_mesh.init_device_mesh(device, (dist.get_world_size(),))
    for block in list(repeated_blocks(module)):
        fully_shard(block, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def gathered(state: Any) -> Any:
    """A nested state with its split tensors whole, on the CPU. Every process has to call this."""
    return tree_map(lambda value: value.full_tensor().cpu() if isinstance(value, DTensor) else value, state)


def split_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor split as `like` is; unchanged where that is whole or of another shape (a step counter)."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def split_optimiser_state(state: dict, parameters: list[Tensor]) -> dict:
    """The state_dict of an optimiser, split as its parameters are."""
    moments = {
        index: {name: split_like(value, parameters[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": moments}
