"""Training the hybrid recogniser's denoiser: slot layers on its decoder, everything below them frozen.

dLLM-ASR (arXiv 2601.17902) trains with masks; here the canvas shows the draft, and the denoiser learns to make it
right, as in discrete denoising with steps of its own (Savinov et al. 2022, arXiv 2112.06749, Sec. 2.2).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from asr.ar.greedy import IGNORED
from asr.audio.augment import seeded
from asr.dllm.canvas import ctc_draft
from asr.dllm.decoder import DenoisingDecoder
from asr.hybrid.denoiser import EMPTY, SlotSizes
from asr.hybrid.model import HybridModel
from asr.parts import Listened
from asr.score import error_counts, normalised
from recipes.data.canvases import Corruption, adopt, collated, examples
from recipes.data.speech_data import SpeechData
from recipes.data.written_speech import WrittenBatches
from recipes.training.token_loss import token_loss

EMPTY_WEIGHT = 0.5  # of a slot that stays empty, in the loss: most do


class SlotDenoiserTask:
    """Task for `recipes.training.engine.Trainer`.

    Args:
        recogniser: folder of the hybrid model that gets a denoiser. One that has one keeps its weights if the sizes
            are the same.
        slots: sizes of the layers.
        data: stores of Whisper features with written text, and batching.
        corruption: how canvases are made.
        seed: of fresh weights, data order and corruption.
    """

    def __init__(
        self, recogniser: str, slots: SlotSizes, data: SpeechData, corruption: Corruption | None = None, seed: int = 0
    ):
        torch.manual_seed(seed)
        self.model = HybridModel.from_pretrained(recogniser)
        if self.model.slots is None or self.model.slots.sizes != slots:
            self.model = self.model.with_slots(slots)
        freeze_below_slots(self.model)
        self.corruption = corruption or Corruption()
        self.speech = WrittenBatches(data, self.model, seed)
        self.train_batches = self.speech.plan

    def load(self, plan) -> dict[str, Tensor]:
        return {**self.speech.load(plan), "seed": torch.tensor(plan.seed)}

    @torch.no_grad()
    def listen(self, model: HybridModel, batch: dict[str, Tensor]) -> Listened:
        """Encoder and branch; the masks on the features make drafts like those of speech not heard before."""
        for part in (model.encoder, model.branch, model.decoder):
            part.eval()
        hidden, frames, log_probabilities, steps = model(batch["features"], batch["lengths"])
        return Listened.of(hidden, frames, log_probabilities, steps)

    def loss(self, model: HybridModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        rng = seeded(*batch["seed"].tolist())
        heard = self.listen(model, batch)
        units = [row[:n].tolist() for row, n in zip(batch["units"], batch["unit_lengths"].tolist(), strict=True)]
        found = examples(heard.posteriors, units, model, self.corruption, rng)
        index = torch.tensor(list(found), dtype=torch.long, device=heard.hidden.device)
        rows = list(found.values())
        if not rows:
            return model.slots.empty.bias.sum() * 0, {"canvases": 0.0}
        denoiser = model.denoiser
        speech = denoiser.remember(heard.hidden[index], heard.lengths[index])
        if rng.random() < self.corruption.own:
            training = model.slots.training
            with torch.no_grad():
                model.slots.eval()
                found = self._logits(denoiser, collated(rows)[0], speech)
                adopt(rows, found, float(rng.choice(self.corruption.commits)))
                model.slots.train(training)
        canvas, wanted = collated(rows)
        wanted = wanted.to(heard.hidden.device)
        logits = self._logits(denoiser, canvas, speech)
        each = token_loss(logits, wanted, "none")
        is_token = (wanted != IGNORED) & (wanted != EMPTY)
        loss = (each * torch.where(is_token, 1.0, EMPTY_WEIGHT)).sum() / is_token.sum().clamp(min=1)
        right = logits.argmax(-1) == wanted
        mistaken = is_token & (canvas.tokens.to(wanted.device) != wanted)
        return loss, {"words": _mean(right[is_token]), "mistakes_mended": _mean(right[mistaken])}

    @staticmethod
    def _logits(denoiser, canvas, speech) -> Tensor:
        canvas = canvas.to(speech.sums.device)
        valid = None if bool(canvas.valid.all()) else canvas.valid
        return denoiser.denoise(
            canvas.tokens, speech, canvas.times, valid, guesses=canvas.tokens, sure=canvas.confidences
        )

    @torch.inference_mode()
    def validate(self, model: HybridModel) -> dict[str, float]:
        """Word error rates of the denoiser and of its draft, by Whisper's normaliser, and passes an utterance."""
        decoder = DenoisingDecoder(model.denoiser, model.units)
        references, written, drafts, passes = [], [], [], []
        device = model.branch.head.weight.device
        for batch, texts in self.speech.held_out():
            heard = self.listen(model, {k: v.to(device) for k, v in batch.items()})
            decoded = decoder(heard)
            written += [model.tokenizer.decode(tokens) for tokens in decoded.tokens]
            drafts += [model.units.decode(ctc_draft(frames).tokens) for frames in heard.posteriors]
            passes += decoded.passes.tolist()
            references += texts
        said = normalised(references)
        rates = {
            name: error_counts(said, normalised(texts)).rate
            for name, texts in (("wer", written), ("wer_draft", drafts))
        }
        return {**rates, "passes": sum(passes) / max(1, len(passes))}

    def export(self, model: HybridModel, folder: Path) -> None:
        model.save_half(folder)


def freeze_below_slots(model: HybridModel) -> None:
    """Train the slot layers alone."""
    model.requires_grad_(False)
    model.slots.requires_grad_(True)


def _mean(hits: Tensor) -> float:
    return float(hits.float().mean()) if hits.numel() else 0.0
