"""Training straight from tables of recordings: waves for large models, features made on first use for Conformers."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.data.batching import Batch, Source, plan_epoch
from recipes.data.corpora import Recording, read_table
from recipes.data.speech_data import Share, SpeechData
from recipes.data.spelling import spelled


@dataclass
class TableData:
    """Recordings of tables (columns id, path, text[, speaker]) or lhotse manifests, read as waves while training.

    Args:
        train: table, or several separated by commas.
        validation: table of held-out recordings.
        batch_seconds: of a batch, padded to its longest recording.
        epoch_hours: drawn for an epoch; None takes everything once.
        shortest, longest: seconds of the recordings that are used.
        validation_utterances: spread evenly over the table; None takes all.
    """

    train: str
    validation: str
    batch_seconds: float = 80.0
    epoch_hours: float | None = None
    shortest: float = 0.5
    longest: float = 30.0
    validation_utterances: int | None = 100

    def batches(self, seed: int) -> TableBatches:
        return TableBatches(self, seed)


class TableBatches:
    """Planned batches of recordings and held-out recordings."""

    def __init__(self, data: TableData, seed: int):
        self.data, self.seed = data, seed
        recordings = [r for table in data.train.split(",") for r in read_table(table)]
        self.recordings, self.seconds = with_durations(recordings)
        self.held_out = HeldOut(data.validation, data.validation_utterances)

    def plan(self, epoch: int, rank: int, world: int) -> list[Batch]:
        data = self.data
        hours = data.epoch_hours or self.seconds.sum() / 3600 + 1e-9
        limits = (data.shortest, data.longest)
        source = [Source(self.seconds, 1.0)]
        return plan_epoch(source, hours, data.batch_seconds, limits, self.seed, epoch, rank, world)

    def read(self, plan: Batch) -> tuple[list[np.ndarray], list[str]]:
        """Waves at 16 kHz and texts of a planned batch."""
        chosen = [self.recordings[index] for _, index in plan.items]
        return [r.wave() for r in chosen], [r.text for r in chosen]


class HeldOut:
    """Recordings of a table to validate on, `count` of them spread evenly (None: all)."""

    def __init__(self, table: str, count: int | None):
        recordings, _ = with_durations(read_table(table))
        count = min(len(recordings), count or len(recordings))
        self.recordings = [recordings[i] for i in np.linspace(0, len(recordings) - 1, count).astype(int)]

    def __call__(self, batch: int = 8) -> Iterator[tuple[list[np.ndarray], list[str]]]:
        """Waves and texts, so many at a time."""
        for first in range(0, len(self.recordings), batch):
            chosen = self.recordings[first : first + batch]
            yield [r.wave() for r in chosen], [r.text for r in chosen]


def with_durations(recordings: list[Recording]) -> tuple[list[Recording], np.ndarray]:
    """The recordings that can be read and their seconds; those that cannot are named on stderr.

    Raises:
        ValueError: none can be read.
    """
    from asr.audio import AudioError
    from asr.audio.io import duration

    kept, seconds = [], []
    for recording in recordings:
        whole = duration(recording.path)
        try:
            length = len(recording.wave()) / 16000 if whole is None else whole - recording.start
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        kept.append(recording)
        seconds.append(min(length, recording.seconds or length))
    if not kept:
        raise ValueError("none of the recordings can be read: check the paths in the table")
    return kept, np.array(seconds)


def table_features(
    train: str, validation: str, folder: str, copies: int = 3, noise: str | None = None, seed: int = 0, **options
) -> SpeechData:
    """Feature stores of tables, made when first asked for: what Conformers train on.

    A store depends on the content of its table and these arguments, and lies in a folder of their digest, so changed
    tables make new stores. For hundreds of hours, `recipes.prepare recorded` does the same with many workers.

    Args:
        train: table, or several separated by commas.
        validation: table of held-out recordings.
        folder: where the stores are kept.
        copies: of each training recording; all but the first are augmented.
        noise: table of noise recordings to mix in (`recipes.data.corpora.read_noises`).
        options: further fields of `recipes.data.speech_data.SpeechData`.
    """
    import torch
    from accelerate import PartialState

    def store(table: str, copies: int) -> Path:
        content = Path(table).read_bytes() + (Path(noise).read_bytes() if noise else b"")
        digest = hashlib.sha256(content + f"{copies} {seed}".encode()).hexdigest()[:12]
        out = Path(folder) / f"{Path(table).stem}-{digest}"
        make_store(spelled(read_table(table), table), out, copies, noise, seed)
        return out

    with PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        stores = [Share(str(store(table, copies))) for table in train.split(",")]
        held_out = str(store(validation, 1))
    return SpeechData(stores=stores, validation=held_out, **options)


def make_store(recordings: list[Recording], out: Path, copies: int, noise: str | None, seed: int) -> None:
    """Write the missing shards of a feature store, in this process."""
    from tqdm import tqdm

    from recipes.data import features
    from recipes.data.corpora import read_noises
    from recipes.data.store import shard_exists

    shards = range(-(-len(recordings) * copies // features.SHARD_UTTERANCES))
    missing = [shard for shard in shards if not shard_exists(out, shard)]
    if missing and noise and not features._noises:
        features._noises.extend(read_noises(noise))
    for shard in tqdm(missing, desc=out.name, unit="shard", file=sys.stderr, disable=not missing):
        features.recorded_shard(shard, recordings, copies, 1.0, seed, out)
