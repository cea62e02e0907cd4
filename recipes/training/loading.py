"""Batches in the order of a plan, made by this process or ahead of it by worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

AHEAD = 4  # batches that each worker has ready


class _Planned(Dataset):
    def __init__(self, plans: Sequence, load: Callable[[object], dict[str, Tensor]]):
        self.plans, self.load = plans, load

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.load(self.plans[index])


def loaded(
    plans: Sequence, load: Callable[[object], dict[str, Tensor]], workers: int = 0
) -> Iterator[dict[str, Tensor]]:
    """The batch of each plan, in order.

    A GPU that takes a batch faster than one core makes it wants `workers`. They are forks, so `load` may use all that
    the task holds but nothing on a GPU; random choices that depend on the plan alone come out the same.
    """
    if not workers:
        yield from map(load, plans)
        return
    yield from DataLoader(
        _Planned(plans, load),
        batch_size=None,
        num_workers=min(workers, len(plans)),
        prefetch_factor=AHEAD,
        multiprocessing_context="fork",
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # seeds the workers; the one of training stays where it is
    )
