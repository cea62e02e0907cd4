"""Stage 4: the token language model on frozen tokens and frozen representations; exports the whole system."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.audio.features import SAMPLING_RATE
from enhance.l3se.encoder import HEADS, NIEncoder
from enhance.l3se.language_model import TokenLM
from enhance.l3se.system import L3SE
from recipes.tasks.l3se.data import Memory, Pairs, PairTask, Teachers


class LanguageModelTask(PairTask):
    """Task for `recipes.training.engine.Trainer`.

    Args:
        codec: model folder of the first stage.
        encoder: model folder of the third stage; null is the arm without distillation.
        language_model: sizes and conditioning, arguments of `TokenLM`.
        semantic, heads: for the arm without distillation; see `EncoderTask`.
    """

    def __init__(
        self,
        codec: str,
        encoder: str | None,
        language_model: dict,
        pairs: Pairs,
        validation: Pairs,
        semantic: str | None = None,
        heads: list[str] = HEADS,
        batch: int = 8,
        seed: int = 0,
        validation_pairs: int = 40,
    ):
        super().__init__(pairs, validation, batch, seed, validation_pairs)
        torch.manual_seed(seed)
        self.teachers, self.memory = Teachers(codec, semantic, [] if encoder else heads), Memory(pairs)
        student = NIEncoder.from_pretrained(encoder) if encoder else self.teachers.student(pairs)
        self.encoder = student.eval().requires_grad_(False)
        own = self.teachers.codec
        self.seconds = len(pairs.pair(0, 0, seed)[0]) / SAMPLING_RATE
        self.model = TokenLM(student.condition_width, own.repeat, own.groups, own.codes, **language_model)

    def loss(self, model: TokenLM, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        known = self.memory(batch["numbers"], lambda: self._examples(batch["noisy"], batch["clean"]))
        loss, parts = model.loss(known["condition"], known["tokens"])
        return loss, {name: float(value) for name, value in parts.items()}

    @torch.no_grad()
    def _examples(self, noisy: Tensor, clean: Tensor) -> dict[str, Tensor]:
        teachers = self.teachers.to(clean.device)
        return {"condition": self.encoder.to(noisy.device).condition(noisy), "tokens": teachers.tokens(clean)}

    @torch.no_grad()
    def validate(self, model: TokenLM) -> dict[str, float]:
        """Negative log-likelihood a token (nat) and accuracy; `nll_shuffled` with the conditions of other pairs."""
        rows = []
        for noisy, clean in self.validation_batches(model.start.device):
            known = self._examples(noisy, clean)
            parts = model.loss(known["condition"], known["tokens"])[1]
            shuffled = model.loss(known["condition"].roll(1, 0), known["tokens"])[1]
            rows.append({**{n: float(v) for n, v in parts.items()}, "nll_shuffled": float(shuffled["nll"])})
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def export(self, model: TokenLM, folder: Path) -> None:
        L3SE.assemble(self.encoder, model, self.teachers.codec, self.seconds).save_half(folder)
