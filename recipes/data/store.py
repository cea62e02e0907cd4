"""Feature stores: log-mel features on disk, made once, read many times.

A store is a folder of shards. Shard 00007 is `00007.npy`, float16 log-mel [frames, mel] of its utterances one
after the other, and `00007.jsonl`, one line an utterance (id, text, speaker, source, offset, frames; the times of its
words where a store was made with them). The .jsonl is renamed into place last, so a shard either exists whole or not
at all and a killed job loses at most the shard it was writing. `store.json` says which features the store holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.audio.features import FRAME_HOP, SAMPLING_RATE, normalise
from asr.audio.io import atomic_path

FEATURES = ("log_mel", "whisper")  # `asr.audio.features`; the first are normalised as they are read


@dataclass(frozen=True)
class Example:
    """One training utterance; `frames` counts 10 ms frames.

    `spans` are first and last frame of each word of its written text, None where nobody knows them.
    """

    id: str
    text: str
    speaker: str
    frames: int
    offset: int = 0
    shard: int = 0
    spans: list[tuple[int, int] | None] | None = None

    @property
    def seconds(self) -> float:
        return self.frames * FRAME_HOP / SAMPLING_RATE


def features_in(folder: Path) -> str | None:
    """Which features a store holds, None where there is no store yet."""
    if (folder / "store.json").exists():
        return json.loads((folder / "store.json").read_text())["features"]
    return FEATURES[0] if next(folder.glob("*.jsonl"), None) else None


def open_store(folder: Path, kind: str) -> None:
    """Make a store for features of a kind, or see that the one that is there is of the same.

    Raises:
        ValueError: it holds others.
    """
    held = features_in(folder)
    if held not in (None, kind):
        raise ValueError(f"{folder} holds {held} features: write {kind} features to another folder")
    if held is None:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / "store.json") as partial:
            partial.write_text(json.dumps({"features": kind}) + "\n")


def write_shard(
    folder: Path, shard: int, examples: list[dict], features: list[np.ndarray], kind: str = FEATURES[0]
) -> None:
    """Write one shard; `examples` hold id, text and speaker, `features` float [frames, mel] in the same order."""
    open_store(folder, kind)
    offset, lines = 0, []
    for example, feature in zip(examples, features, strict=True):
        lines.append(json.dumps({**example, "offset": offset, "frames": len(feature)}))
        offset += len(feature)
    array = np.concatenate(features or [np.zeros((0, 0))]).astype(np.float16)  # none where no recording can be read
    for suffix, save in (
        (".npy", lambda f: np.save(f, array)),
        (".jsonl", lambda f: f.write("\n".join(lines).encode())),
    ):
        with atomic_path(folder / f"{shard:05d}{suffix}") as partial, open(partial, "wb") as file:
            save(file)


def shard_exists(folder: Path, shard: int) -> bool:
    return (folder / f"{shard:05d}.jsonl").exists()


class FeatureStore:
    """Read access to a store.

    Args:
        folder: where the shards lie.
        kind: features that the reader needs, one of FEATURES.
        max_shards: read only the first shards (all when None); a fixed number keeps a run repeatable while
            another process is still adding shards.

    Raises:
        FileNotFoundError: the folder holds no finished shard.
        ValueError: it holds other features.
    """

    def __init__(self, folder: str | Path, kind: str = FEATURES[0], max_shards: int | None = None):
        indices = sorted(Path(folder).glob("*.jsonl"))[:max_shards]
        if not indices:
            raise FileNotFoundError(f"no feature shards in {folder}: write them with python -m recipes.prepare")
        self.folder, self.kind = Path(folder), kind
        if (held := features_in(self.folder)) != kind:
            raise ValueError(f"{folder} holds {held} features, the model reads {kind}: see recipes.prepare --features")
        self.examples: list[Example] = []
        self._arrays = []
        for number, index in enumerate(indices):
            self._arrays.append(np.load(index.with_suffix(".npy"), mmap_mode="r"))
            for line in index.read_text().splitlines():
                fields = json.loads(line)
                self.examples.append(Example(**fields, shard=number))

    def __len__(self) -> int:
        return len(self.examples)

    def features(self, index: int) -> Tensor:
        """Log-mel [frames, mel] of one example: normalised, or as Whisper has it."""
        example = self.examples[index]
        stored = self._arrays[example.shard][example.offset : example.offset + example.frames]
        features = torch.from_numpy(stored.astype(np.float32))
        return features if self.kind == "whisper" else normalise(features)
