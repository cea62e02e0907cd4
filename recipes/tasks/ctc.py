"""Training the CTC recogniser from feature stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
import torch
from torch import Tensor, nn

from asr.audio.augment import SpecAugment, seeded
from asr.ctc import CTCModel
from asr.decoding import greedy
from asr.encoder import EncoderConfig
from asr.tokenizer import Tokenizer
from recipes.batching import Batch, Source, plan_epoch
from recipes.store import FeatureStore


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
class CTCData:
    """Feature stores, how they are mixed, and how batches are cut."""

    stores: list[Share]
    validation: str
    batch_seconds: float = 80.0
    epoch_hours: float = 5.0
    shortest: float = 0.5
    longest: float = 20.0
    stages: list[Stage] = field(default_factory=list)
    spec_augment: SpecAugment = field(default_factory=SpecAugment)
    validation_utterances: int | None = None


class CTCTask:
    """Task for `recipes.engine.Trainer`: hierarchical CTC on log-mel features.

    Args:
        encoder: sizes of the encoder.
        tokenizer: JSON file of the vocabulary (`python -m recipes.prepare tokenizer`).
        data: feature stores and batching.
        intermediate: weight of the character loss.
        seed: seed of data order and masks.
        init: run folder or checkpoint whose weights start the training; layers of other shape start afresh.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        tokenizer: str,
        data: CTCData,
        intermediate: float = 0.3,
        seed: int = 0,
        init: str | None = None,
    ):
        torch.manual_seed(seed)
        self.tokenizer = Tokenizer.load(tokenizer)
        self.model = CTCModel.create(encoder, self.tokenizer)
        self.data, self.intermediate, self.seed = data, intermediate, seed
        if init:
            self._start_from(CTCModel.from_pretrained(init))
        self.stores = [FeatureStore(s.folder) for s in data.stores]
        total = sum(s.share for s in data.stores)
        self.sources = [
            Source(np.array([e.seconds for e in store.examples]), s.share / total)
            for store, s in zip(self.stores, data.stores, strict=True)
        ]
        self.validation = FeatureStore(data.validation)

    def _start_from(self, other: CTCModel) -> None:
        own, theirs = self.model.state_dict(), other.state_dict()
        self.model.load_state_dict(
            {k: theirs[k] if k in theirs and theirs[k].shape == v.shape else v for k, v in own.items()}
        )

    def stage(self, epoch: int) -> Stage:
        """The limits that hold in an epoch."""
        for stage in self.data.stages:
            if epoch < stage.until:
                return stage
        return Stage(until=0, longest=self.data.longest, masks=True)

    def train_batches(self, epoch: int, rank: int, world: int) -> list[Batch]:
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
        """Features and targets of a planned batch, padded; see `CTCModel.loss`."""
        _, epoch, _ = plan.seed
        rng = seeded(*plan.seed)
        features = [self.stores[source].features(index) for source, index in plan.items]
        texts = [self.stores[source].examples[index].text for source, index in plan.items]
        if self.stage(epoch).masks:
            features = [self.data.spec_augment(f, rng) for f in features]
        return {**collate(features, texts, self.tokenizer), "seconds": sum(map(len, features)) / 100}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        loss, main = model.loss(batch, self.intermediate)
        return loss, {"ctc": float(main)}

    @torch.inference_mode()
    def validate(self, model: CTCModel) -> dict[str, float]:
        """Greedy WER and CER on the validation store (the first `validation_utterances`, spread evenly)."""
        total = len(self.validation)
        count = self.data.validation_utterances or total
        chosen = sorted(np.linspace(0, total - 1, count).astype(int), key=lambda i: self.validation.examples[i].frames)
        references, hypotheses = [], []
        for first in range(0, count, 8):
            indices = chosen[first : first + 8]
            features = [self.validation.features(i) for i in indices]
            lengths = torch.tensor([len(f) for f in features])
            padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
            device = model.head.weight.device
            log_probabilities, lengths = model(padded.to(device), lengths.to(device))
            hypotheses += [h.text for h in greedy(log_probabilities, lengths, model.tokenizer)]
            references += [self.validation.examples[i].text for i in indices]
        return {"wer": jiwer.wer(references, hypotheses), "cer": jiwer.cer(references, hypotheses)}

    def export(self, model: CTCModel, folder: Path) -> None:
        model.save_half(folder)


def collate(features: list[Tensor], texts: list[str], tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Pad features [frames, mel] and the token and character ids of their texts."""

    def padded(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
        tensors = [torch.tensor(s, dtype=torch.long) for s in sequences]
        return nn.utils.rnn.pad_sequence(tensors, batch_first=True), torch.tensor([len(t) for t in tensors])

    tokens, token_lengths = padded([tokenizer.encode(t) for t in texts])
    characters, character_lengths = padded([tokenizer.encode_characters(t) for t in texts])
    return {
        "features": nn.utils.rnn.pad_sequence(features, batch_first=True),
        "lengths": torch.tensor([len(f) for f in features]),
        "tokens": tokens,
        "token_lengths": token_lengths,
        "characters": characters,
        "character_lengths": character_lengths,
    }
