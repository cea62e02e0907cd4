"""Training from shards in object storage: `python -m recipes.corpus pack` wrote them, many nodes read them.

Every epoch the shards are shuffled and dealt out to the processes, so that no two read the same one. A process mixes
the utterances of a few shards at a time (a window), reads each shard once and whole, and fetches the next window while
the model learns from this one. The plan depends on seed, epoch and number of processes only; no process waits for
another or needs a server.
"""

from __future__ import annotations

import io
import json
import tarfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from asr.audio.augment import seeded
from recipes.corpus.storage import Folder
from recipes.data.batching import Batch, by_duration
from recipes.data.table_data import HeldOut

Member = tuple[bytes, str]  # FLAC, text


@dataclass
class ShardData:
    """Shards to learn from and a table to validate on.

    Args:
        train: folder of shards at any fsspec address, or several separated by commas.
        validation: table of held-out recordings.
        batch_seconds: of a batch, padded to its longest recording.
        shortest, longest: seconds of the recordings that are used.
        window: shards whose utterances are mixed; twice as many are held in memory.
        validation_utterances: spread evenly over the table; None takes all.
    """

    train: str
    validation: str
    batch_seconds: float = 80.0
    shortest: float = 0.5
    longest: float = 30.0
    window: int = 8
    validation_utterances: int | None = 100

    def batches(self, seed: int) -> ShardBatches:
        return ShardBatches(self, seed)


@dataclass(frozen=True)
class ShardBatch(Batch):
    """Items are (shard, member); `wanted` are the shards of this window and of the next."""

    wanted: tuple[int, ...] = ()


class ShardBatches:
    """Planned batches of utterances in shards, and held-out recordings."""

    def __init__(self, data: ShardData, seed: int):
        self.data, self.seed = data, seed
        self.index = ShardIndex(data.train.split(","))
        self.reader = ShardReader(self.index.places)
        self.held_out = HeldOut(data.validation, data.validation_utterances)

    def plan(self, epoch: int, rank: int, world: int) -> list[ShardBatch]:
        """Batches of one epoch for one process, equally many for each.

        Raises:
            ValueError: there are fewer shards than processes.
        """
        count = len(self.index.places)
        if count < world:
            raise ValueError(
                f"{count} shards cannot be shared by {world} processes: pack them again with smaller part_seconds"
            )
        order = seeded(self.seed, epoch).permutation(count)
        plans = [self._plan(order[r::world].tolist(), epoch, r) for r in range(world)]
        return plans[rank][: min(map(len, plans))]

    def _plan(self, shards: list[int], epoch: int, rank: int) -> list[ShardBatch]:
        data, batches = self.data, []
        rng = seeded(self.seed, epoch, rank)
        for first in range(0, len(shards), data.window):
            window = shards[first : first + data.window]
            items = [item for shard in window for item in self.index.items(shard, data.shortest, data.longest)]
            seconds = np.array([length for _, _, length in items])
            wanted = tuple(shards[first : first + 2 * data.window])
            for group in by_duration(seconds, data.batch_seconds, rng):
                seed = (self.seed, epoch, rank, len(batches))
                batches.append(ShardBatch(tuple(items[n][:2] for n in group), seed, wanted))
        return batches

    def read(self, plan: ShardBatch) -> tuple[list[np.ndarray], list[str]]:
        """Waves at 16 kHz and texts of a planned batch."""
        import soundfile

        self.reader.hold(plan.wanted)
        members = [self.reader.members(shard)[member] for shard, member in plan.items]
        return [soundfile.read(io.BytesIO(flac), dtype="float32")[0] for flac, _ in members], [t for _, t in members]


class ShardIndex:
    """Which shards there are and how long their members are; a few bytes for each member.

    Args:
        folders: addresses.

    Raises:
        ValueError: a folder holds no shards.
    """

    def __init__(self, folders: list[str]):
        self.places: list[tuple[Folder, str]] = []
        self._seconds: list[np.ndarray] = []
        for folder in map(Folder, folders):
            before = len(self.places)
            for part in folder.names("part-", ".parquet"):
                self._add(folder, part)
            if len(self.places) == before:
                raise ValueError(f"{folder.address} holds no shards: make them with python -m recipes.corpus pack")

    def _add(self, folder: Folder, part: str) -> None:
        import pyarrow.parquet as parquet

        with folder.open(part) as file:
            table = parquet.read_table(file, columns=["shard", "seconds"]).to_pydict()
        packed = [(shard, seconds) for shard, seconds in zip(table["shard"], table["seconds"], strict=True) if shard]
        if packed:
            self.places.append((folder, packed[0][0]))
            self._seconds.append(np.array([seconds for _, seconds in packed], np.float32))

    def items(self, shard: int, shortest: float, longest: float) -> list[tuple[int, int, float]]:
        """(shard, member, seconds) of a shard's utterances within limits of length."""
        seconds = self._seconds[shard]
        chosen = np.flatnonzero((seconds >= shortest) & (seconds <= longest))
        return [(shard, int(member), float(seconds[member])) for member in chosen]


class ShardReader:
    """Fetches shards ahead of their use and forgets them afterwards.

    Args:
        places: folder and name of each shard.
        threads: shards fetched at once.
    """

    def __init__(self, places: list[tuple[Folder, str]], threads: int = 4):
        self.places, self._held = places, dict[int, Future]()
        self._pool = ThreadPoolExecutor(threads)

    def hold(self, wanted: tuple[int, ...]) -> None:
        """Fetch these shards in their order, those that are not here, and forget all others."""
        self._held = {shard: self._held.get(shard) or self._pool.submit(self._fetch, shard) for shard in wanted}

    def members(self, shard: int) -> list[Member]:
        """The utterances of a held shard, once they are here."""
        return self._held[shard].result()

    def _fetch(self, shard: int) -> list[Member]:
        folder, name = self.places[shard]
        with tarfile.open(fileobj=io.BytesIO(folder.read(name))) as tar:
            contents = {member.name: tar.extractfile(member).read() for member in tar}
        stems = sorted(name.removesuffix(".flac") for name in contents if name.endswith(".flac"))
        return [(contents[f"{stem}.flac"], json.loads(contents[f"{stem}.json"])["text"]) for stem in stems]
