"""Speech for training: feature stores mixed into batches of padded features and token ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from asr.audio.augment import SpecAugment, Warp, seeded
from asr.text.tokenizer import Tokenizer
from recipes.data.batching import Batch, Source, plan_epoch
from recipes.data.store import FeatureStore
from recipes.data.stored_noise import StoredNoise


@dataclass
class Stage:
    """Limits that hold for the first epochs: short utterances and no masks, later everything."""

    until: int  # epoch at which the next stage begins
    longest: float  # seconds
    masks: bool


@dataclass
class Share:
    """A feature store and its share of the training hours (relative to the other stores)."""

    folder: str
    share: float = 1.0


@dataclass
class SpeechData:
    """Feature stores, how they are mixed, and how batches are cut."""

    stores: list[Share]
    validation: str
    batch_seconds: float = 80.0
    epoch_hours: float = 5.0
    shortest: float = 0.5
    longest: float = 20.0
    stages: list[Stage] = field(default_factory=list)
    spec_augment: SpecAugment = field(default_factory=SpecAugment)
    warp: Warp | None = None  # of stored Whisper features
    noise: StoredNoise | None = None  # likewise
    validation_utterances: int | None = None


class SpeechBatches:
    """Training batches and held-out batches of the stores that a `SpeechData` names; a share of 0 leaves one out."""

    features = "log_mel"  # that the stores have to hold

    def __init__(self, data: SpeechData, tokenizer: Tokenizer, seed: int):
        self.data, self.tokenizer, self.seed = data, tokenizer, seed
        used = [s for s in data.stores if s.share > 0]
        self.stores = [FeatureStore(s.folder, self.features) for s in used]
        total = sum(s.share for s in used)
        self.sources = [
            Source(np.array([e.seconds for e in store.examples]), s.share / total)
            for store, s in zip(self.stores, used, strict=True)
        ]
        self.validation = FeatureStore(data.validation, self.features)

    def stage(self, epoch: int) -> Stage:
        """The limits that hold in an epoch."""
        for stage in self.data.stages:
            if epoch < stage.until:
                return stage
        return Stage(until=0, longest=self.data.longest, masks=True)

    def plan(self, epoch: int, rank: int, world: int) -> list[Batch]:
        """Batches of one epoch for one process."""
        return plan_epoch(
            self.sources,
            self.data.epoch_hours,
            self.data.batch_seconds,
            (self.data.shortest, self.stage(epoch).longest),
            self.seed,
            epoch,
            rank,
            world,
        )

    def load(self, plan: Batch) -> dict[str, Tensor]:
        """Features and targets of a planned batch, padded; see `collate`."""
        _, epoch, _ = plan.seed
        rng = seeded(*plan.seed)
        features = [self.stores[source].features(index) for source, index in plan.items]
        texts = [self.stores[source].examples[index].text for source, index in plan.items]
        if self.stage(epoch).masks:
            features = [self.data.spec_augment(f, rng) for f in features]
        return {**collate(features, texts, self.tokenizer), "seconds": sum(map(len, features)) / 100}

    def held_out_indices(self, batch: int) -> Iterator[list[int]]:
        """Utterances of the validation store (`validation_utterances`, spread evenly) in batches, by length."""
        total = len(self.validation)
        count = min(total, self.data.validation_utterances or total)
        chosen = sorted(np.linspace(0, total - 1, count).astype(int), key=lambda i: self.validation.examples[i].frames)
        for first in range(0, count, batch):
            yield chosen[first : first + batch]

    def held_out(self, batch: int = 8) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
        """Batches of the validation store and their texts."""
        for indices in self.held_out_indices(batch):
            texts = [self.tokenizer.spell(self.validation.examples[i].text) for i in indices]
            yield collate([self.validation.features(i) for i in indices], texts, self.tokenizer), texts


def pad(sequences: list[list[int]], value: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences as [batch, longest], and their lengths [batch]."""
    tensors = [torch.tensor(s, dtype=torch.long) for s in sequences]
    lengths = torch.tensor([len(t) for t in tensors])
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value), lengths


def collate(features: list[Tensor], texts: list[str], tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Pad features [frames, mel] and the token and character ids of their texts."""
    tokens, token_lengths = pad([tokenizer.encode(tokenizer.spell(t)) for t in texts])
    characters, character_lengths = pad([tokenizer.encode_characters(t) for t in texts])
    return {
        "features": nn.utils.rnn.pad_sequence(features, batch_first=True),
        "lengths": torch.tensor([len(f) for f in features]),
        "tokens": tokens,
        "token_lengths": token_lengths,
        "characters": characters,
        "character_lengths": character_lengths,
    }
