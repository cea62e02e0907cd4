"""Stage 3: distillation. The NI-Encoder learns to answer on damaged speech as the teachers do on clean speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from enhance.l3se.encoder import HEADS, NIEncoder, distillation_loss, similarities
from recipes.tasks.l3se.data import Memory, Pairs, PairTask, Teachers


class EncoderTask(PairTask):
    """Task for `recipes.training.engine.Trainer`.

    Args:
        codec: model folder of the first stage.
        semantic: that of the second, or a hybrid recogniser whose CTC branch teaches.
        heads: "acoustic", "semantic" or both; one alone is an arm of the ablation.
        distance: "mse", "l1" or "cosine".
        weights: of the heads in the loss.
    """

    def __init__(
        self,
        codec: str,
        semantic: str,
        pairs: Pairs,
        validation: Pairs,
        heads: list[str] = HEADS,
        distance: str = "mse",
        weights: dict[str, float] | None = None,
        batch: int = 6,
        seed: int = 0,
        validation_pairs: int = 40,
    ):
        super().__init__(pairs, validation, batch, seed, validation_pairs)
        torch.manual_seed(seed)
        self.distance, self.weights = distance, weights or {}
        self.teachers, self.memory = Teachers(codec, semantic, heads), Memory(pairs)
        self.model = self.teachers.student(pairs)

    def loss(self, model: NIEncoder, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        clean = batch["clean"]
        targets = self.memory(batch["numbers"], lambda: self.teachers.to(clean.device).targets(clean))
        estimates, _ = model(batch["noisy"])
        loss, parts = distillation_loss(model, estimates, targets, self.distance, self.weights)
        return loss, {name: float(part.detach()) for name, part in parts.items()}

    @torch.no_grad()
    def validate(self, model: NIEncoder) -> dict[str, float]:
        """Loss, and for each head the cosine similarity with the target, of the student and before distillation."""
        rows = []
        for noisy, clean in self.validation_batches(model.mean.device):
            teachers = self.teachers.to(noisy.device)
            targets, estimates = teachers.targets(clean), model(noisy)[0]
            loss, _ = distillation_loss(model, estimates, targets, self.distance, self.weights)
            row = {"loss": float(loss)}
            for name, value in similarities(model, estimates, targets).items():
                row[f"similarity_{name}"] = value
            for name, value in similarities(model, teachers.targets(noisy), targets).items():
                row[f"undistilled_{name}"] = value
            rows.append(row)
        metrics = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        return metrics | {f"{n}_layer_{i}": float(w) for n, h in model.heads.items() for i, w in enumerate(h.weights())}

    def export(self, model: NIEncoder, folder: Path) -> None:
        model.save_half(folder)
