"""Training the CTC recogniser from feature stores."""

from __future__ import annotations

from pathlib import Path

import jiwer
import torch
from torch import Tensor, nn

from asr.ctc.beam import greedy
from asr.ctc.encoder import EncoderConfig
from asr.ctc.model import CTCModel
from asr.text.tokenizer import Tokenizer
from recipes.data.speech_data import SpeechBatches, SpeechData


class CTCTask:
    """Task for `recipes.training.engine.Trainer`: hierarchical CTC on log-mel features.

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
        data: SpeechData,
        intermediate: float = 0.3,
        seed: int = 0,
        init: str | None = None,
    ):
        torch.manual_seed(seed)
        self.tokenizer = Tokenizer.load(tokenizer)
        self.model = CTCModel.create(encoder, self.tokenizer)
        self.intermediate = intermediate
        if init:
            self._start_from(CTCModel.from_pretrained(init))
        self.speech = SpeechBatches(data, self.tokenizer, seed)
        self.train_batches, self.load = self.speech.plan, self.speech.load

    def _start_from(self, other: CTCModel) -> None:
        own, theirs = self.model.state_dict(), other.state_dict()
        self.model.load_state_dict(
            {k: theirs[k] if k in theirs and theirs[k].shape == v.shape else v for k, v in own.items()}
        )

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        loss, main = model.loss(batch, self.intermediate)
        return loss, {"ctc": float(main)}

    @torch.inference_mode()
    def validate(self, model: CTCModel) -> dict[str, float]:
        """Greedy word and character error rate on held-out speech."""
        references, hypotheses = [], []
        device = model.head.weight.device
        for batch, texts in self.speech.held_out():
            log_probabilities, lengths = model(batch["features"].to(device), batch["lengths"].to(device))
            hypotheses += [h.text for h in greedy(log_probabilities, lengths, model.tokenizer)]
            references += texts
        return {"wer": jiwer.wer(references, hypotheses), "cer": jiwer.cer(references, hypotheses)}

    def export(self, model: CTCModel, folder: Path) -> None:
        model.save_half(folder)
