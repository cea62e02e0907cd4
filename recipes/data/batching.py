"""Dynamic batches by duration, drawn from several stores, a function of seed and epoch only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.audio.augment import seeded


@dataclass(frozen=True)
class Source:
    """One data set in a mixture: durations in seconds of its utterances, and its share of each epoch's hours."""

    seconds: np.ndarray
    share: float


@dataclass(frozen=True)
class Batch:
    """Utterances as (source, index) pairs, and a seed for the random choices made while loading them."""

    items: tuple[tuple[int, int], ...]
    seed: tuple[int, ...]


def draw(source: Source, hours: float, limits: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Indices of about `hours` of utterances within the length limits; none twice until all were taken once."""
    usable = np.flatnonzero((source.seconds >= limits[0]) & (source.seconds <= limits[1]))
    if not len(usable) or hours <= 0:
        return np.zeros(0, dtype=int)
    total = source.seconds[usable].sum() / 3600
    order = np.concatenate([rng.permutation(usable) for _ in range(max(1, int(np.ceil(hours / total))))])
    return order[np.cumsum(source.seconds[order]) <= hours * 3600]


def plan_epoch(
    sources: Sequence[Source],
    hours: float,
    batch_seconds: float,
    limits: tuple[float, float],
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
) -> list[Batch]:
    """Batches of one epoch for one process.

    Utterances are sorted by a jittered duration and cut so that a batch, padded to its longest utterance,
    stays under `batch_seconds`; the batches are then shuffled. All processes plan the same and take every
    `world`-th batch, equally many each.
    """
    rng = seeded(seed, epoch)
    items = [
        (number, int(index))
        for number, source in enumerate(sources)
        for index in draw(source, hours * source.share, limits, rng)
    ]
    seconds = np.array([sources[s].seconds[i] for s, i in items])
    shuffled = by_duration(seconds, batch_seconds, rng)
    usable = len(shuffled) // world * world
    return [
        Batch(tuple(items[n] for n in group), (seed, epoch, i))
        for i, group in enumerate(shuffled[:usable])
        if i % world == rank
    ]


def by_duration(seconds: np.ndarray, batch_seconds: float, rng: np.random.Generator) -> list[list[int]]:
    """Indices of utterances in batches, shuffled; see `plan_epoch`."""
    groups: list[list[int]] = []
    longest = 0.0
    for number in np.argsort(seconds * rng.uniform(0.95, 1.05, len(seconds))):
        longest = max(longest, seconds[number])
        if not groups or longest * (len(groups[-1]) + 1) > batch_seconds:
            groups.append([])
            longest = seconds[number]
        groups[-1].append(int(number))
    return [groups[i] for i in rng.permutation(len(groups))]
