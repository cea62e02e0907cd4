"""Stage 2: the semantic teacher. CTC on a weighted sum of the frozen backbone's layers."""

from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import torch
from torch import Tensor, nn

from asr.audio.io import SAMPLING_RATE, duration
from enhance.l3se.backbone import Backbone
from enhance.l3se.semantic import WavS2T
from recipes.data.batching import Batch, Source, plan_epoch
from recipes.data.corpora import Recording, read_table
from recipes.data.spelling import spelled
from recipes.tasks.l3se.codec import export_backbone
from recipes.tasks.large import load_units


class SemanticTask:
    """Task for `recipes.training.engine.Trainer`.

    Args:
        backbone: pretrained; it stays as it is.
        table, validation: recordings with columns id, path, text.
        tokenizer: JSON file of the vocabulary; null takes that of the recogniser that ships.
        batch_seconds: of a padded batch.
        limits: seconds of the shortest and the longest utterance that are used.
        validation_utterances: spread evenly over the table; all when null.
        seed: seed of weights and data order.
    """

    def __init__(
        self,
        backbone: Backbone,
        table: str,
        validation: str,
        tokenizer: str | None = None,
        batch_seconds: float = 60.0,
        limits: tuple[float, float] = (1.0, 17.0),
        validation_utterances: int | None = 60,
        seed: int = 0,
    ):
        torch.manual_seed(seed)
        self.backbone, self.seed = backbone.frozen(), seed
        self.batch_seconds, self.limits = batch_seconds, tuple(limits)
        self.tokenizer = load_units(tokenizer)
        self.model = WavS2T(list(backbone.widths), backbone.width, self.tokenizer.definition)
        self.recordings, self.held_out = (spelled(read_table(name), name) for name in (table, validation))
        self.seconds = np.array([_seconds(recording) for recording in self.recordings])
        chosen = np.linspace(0, len(self.held_out) - 1, validation_utterances or len(self.held_out))
        self.held_out = [self.held_out[i] for i in sorted(set(chosen.astype(int)))]

    def train_batches(self, epoch: int, rank: int, world: int) -> list[Batch]:
        source = Source(self.seconds, 1.0)
        hours = self.seconds.sum() / 3600
        return plan_epoch([source], hours, self.batch_seconds, self.limits, self.seed, epoch, rank, world)

    def load(self, plan: Batch) -> dict[str, Tensor]:
        """`waves` [batch, samples] with `lengths`, and `tokens` with `token_lengths`, padded."""
        chosen = [self.recordings[index] for _, index in plan.items]
        batch = padded_waves([recording.wave() for recording in chosen])
        tokens = [torch.tensor(self.tokenizer.encode(recording.text)) for recording in chosen]
        batch["tokens"] = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        batch["token_lengths"] = torch.tensor([len(t) for t in tokens])
        return {**batch, "seconds": float(batch["lengths"].sum()) / SAMPLING_RATE}

    def loss(self, model: WavS2T, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            states, frames = self.backbone.to(batch["waves"].device)(batch["waves"], batch["lengths"])
        return model.loss(states, frames, batch["tokens"], batch["token_lengths"]), {}

    @torch.no_grad()
    def validate(self, model: WavS2T) -> dict[str, float]:
        """Word and character error rate of the best path, and the layer weights."""
        device = model.aggregate.logits.device
        self.backbone.to(device)
        references, hypotheses = [], []
        for recording in self.held_out:
            states, frames = self.backbone(torch.from_numpy(recording.wave())[None].to(device))
            hypotheses += model.transcribe(states, frames)
            references.append(recording.text)
        weights = {f"layer_{i}": float(w) for i, w in enumerate(model.aggregate.weights())}
        return {"wer": jiwer.wer(references, hypotheses), "cer": jiwer.cer(references, hypotheses), **weights}

    def export(self, model: WavS2T, folder: Path) -> None:
        model.save_half(folder)
        export_backbone(self.backbone, folder)


def padded_waves(waves: list[np.ndarray]) -> dict[str, Tensor]:
    tensors = [torch.from_numpy(wave) for wave in waves]
    lengths = torch.tensor([len(wave) for wave in tensors])
    return {"waves": nn.utils.rnn.pad_sequence(tensors, batch_first=True), "lengths": lengths}


def _seconds(recording: Recording) -> float:
    known = recording.seconds or duration(recording.path)
    return known or len(recording.wave()) / SAMPLING_RATE
