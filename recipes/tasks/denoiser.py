"""Training the denoiser and its autoregressive twin on the frozen encoder of a recogniser."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.ar.decoders import TwinDecoder
from asr.ar.greedy import teacher_forced
from asr.audio.augment import seeded
from asr.ctc.model import CTCModel
from asr.dllm.canvas import Canvas, CanvasOptions, Draft, Layout, ctc_draft, lay_out, targets
from asr.dllm.choices import DenoisingDecode
from asr.dllm.decoder import DenoisingDecoder
from asr.dllm.loop import END, MASK, NULL
from asr.dllm.network import Denoiser, DenoiserConfig
from asr.parts import Listened
from asr.score import error_counts
from recipes.data.speech_data import SpeechBatches, SpeechData
from recipes.training.token_loss import token_loss

EPSILON = 1e-3  # least mask probability of the masked-diffusion loss (LLaDA, arXiv 2502.09992, Sec. 2.1)


@dataclass
class Corruption:
    """How canvases are made from reference texts.

    Args:
        canvases: drawn for each utterance of a batch, which is encoded once.
        full: share with every position masked.
        prior: share laid out from the recogniser's own draft; the rest is masked at random (LLaDA).
        thresholds: range of the confidence below which the draft is masked.
        penalties: range of the blank penalty of the draft.
        tail: most end-of-text tokens behind a text that has no draft.
    """

    canvases: int = 2
    full: float = 0.2
    prior: float = 0.5
    thresholds: tuple[float, float] = (0.5, 1.0)
    penalties: tuple[float, float] = (0.0, 2.0)
    tail: int = 24


@dataclass
class Examples:
    """Canvases of a batch with what each slot should become, and the probability with which slots were masked."""

    canvas: Canvas
    wanted: Tensor  # [canvases, n]
    masked: Tensor  # [canvases, n]
    probability: Tensor  # [canvases]

    @classmethod
    def of(cls, rows: list[tuple[Layout, list[int], float]]) -> Examples:
        canvas = Canvas.of([layout for layout, *_ in rows], pad=END)
        width = canvas.tokens.shape[1]
        wanted = torch.tensor([row + [END] * (width - len(row)) for _, row, _ in rows])
        masked = (canvas.tokens == MASK) & canvas.valid
        return cls(canvas, wanted, masked, torch.tensor([p for *_, p in rows]))


def masked_layout(
    reference: list[int], probability: float, tail: int, rng: np.random.Generator
) -> tuple[Layout, list[int]]:
    """The reference and `tail` ends of text, each masked with a probability; nobody knows their times."""
    wanted = reference + [END] * tail
    layout = Layout()
    for i, (token, hidden) in enumerate(zip(wanted, rng.random(len(wanted)) < probability, strict=True)):
        layout.add(MASK if hidden else token, -1.0, i, gap=False)
    return layout, wanted


def draft_layout(
    draft: Draft, reference: list[int], options: CanvasOptions, probability: float, rng: np.random.Generator
) -> tuple[Layout, list[int]]:
    """A canvas from a draft, some of its masks already settled, as in the middle of decoding."""
    layout = lay_out(draft, options, MASK)
    wanted, _ = targets(layout, draft, reference, END, NULL)
    settled = rng.random(len(wanted)) >= probability
    layout.tokens = [
        want if token == MASK and done else token
        for token, want, done in zip(layout.tokens, wanted, settled, strict=True)
    ]
    return layout, wanted


class _SpeechTask:
    """What both tasks share: batches of features, the frozen recogniser, validation on held-out speech.

    Args:
        decoder: sizes of the text decoder.
        data: feature stores and batching.
        recogniser: folder of the CTC model whose encoder is used.
        seed: seed of data order, masks and corruption.
        init: folder of a decoder whose weights start the training.
    """

    causal: bool

    def __init__(
        self,
        decoder: DenoiserConfig,
        data: SpeechData,
        recogniser: str,
        seed: int = 0,
        init: str | None = None,
    ):
        torch.manual_seed(seed)
        self.recogniser = CTCModel.from_pretrained(recogniser).requires_grad_(False)
        self.tokenizer = self.recogniser.tokenizer
        decoder.vocabulary, decoder.causal = len(self.tokenizer), self.causal
        decoder.memory_width = self.recogniser.encoder.config.width
        if self.causal:  # nothing places the twin's tokens in time
            decoder.anchored = decoder.corrects = False
        self.model = Denoiser.from_pretrained(init) if init else Denoiser.create(decoder, self.tokenizer)
        self.speech = SpeechBatches(data, self.tokenizer, seed)
        self.train_batches = self.speech.plan

    def load(self, plan) -> dict[str, Tensor]:
        return {**self.speech.load(plan), "seed": torch.tensor(plan.seed)}

    def listen(self, batch: dict[str, Tensor], training: bool) -> Listened:
        """What the recogniser makes of a batch.

        While training, the encoder's dropout stays on: drafts of speech that the encoder has learned from would
        otherwise be cleaner than those of new speech.
        """
        device = batch["features"].device
        recogniser = self.recogniser.to(device).train(training)
        with torch.no_grad():
            hidden, _, lengths = recogniser.encoder(batch["features"], batch["lengths"])
            return Listened.of(hidden, lengths, recogniser.log_probabilities(hidden))

    def validate(self, model: Denoiser) -> dict[str, float]:
        """Word error rate of the decoder and of the CTC draft, on the same held-out speech."""
        texts, drafts, references, passes = [], [], [], []
        decoder = self.decoder(model)
        for batch, said in self.speech.held_out():
            batch = {k: v.to(model.head.weight.device) for k, v in batch.items()}
            heard = self.listen(batch, training=False)
            found = decoder(heard)
            texts += [self.tokenizer.decode(row) for row in found.tokens]
            drafts += [self.tokenizer.decode(ctc_draft(frames).tokens) for frames in heard.posteriors]
            references += said
            passes += found.passes.tolist()
        rates = {"wer": error_counts(references, texts).rate, "wer_prior": error_counts(references, drafts).rate}
        return {**rates, "passes": float(np.mean(passes))}

    def decoder(self, model: Denoiser) -> DenoisingDecoder | TwinDecoder:
        """Decoding by the method the model is trained for."""
        raise NotImplementedError

    def export(self, model: Denoiser, folder: Path) -> None:
        model.save_half(folder)


class DenoiserTask(_SpeechTask):
    """Masked diffusion over canvases: random masks, all masks, and drafts of the recogniser."""

    causal = False

    def __init__(self, decoder: DenoiserConfig, data: SpeechData, corruption: Corruption | None = None, **options):
        super().__init__(decoder, data, **options)
        self.corruption = corruption or Corruption()

    def loss(self, model: Denoiser, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of masked slots over their mask probability, summed, divided by the number of slots."""
        heard = self.listen(batch, training=True)
        rng = seeded(*batch["seed"].tolist())
        rows = [
            self._example(reference, frames, rng)
            for reference, frames in zip(references(batch), heard.posteriors, strict=True)
            for _ in range(self.corruption.canvases)
        ]
        examples = Examples.of(rows)
        device = heard.hidden.device
        canvas = examples.canvas.to(device)
        speech = model.remember(heard.hidden, heard.lengths, heard.padded_posteriors())
        logits = model.denoise(canvas.tokens, speech, canvas.times, canvas.valid)
        entropy = token_loss(logits, examples.wanted.to(device), "none")
        masked, probability = examples.masked.to(device), examples.probability.to(device)
        loss = (entropy * masked / probability[:, None]).sum() / canvas.valid.sum()
        return loss, {"masked_entropy": float((entropy.detach() * masked).sum() / masked.sum())}

    def _example(self, reference: list[int], frames: Tensor, rng: np.random.Generator):
        """One canvas: layout, what its slots should become, mask probability."""
        how, settings = rng.random(), self.corruption
        probability = 1.0 if how < settings.full else (1 - EPSILON) * rng.random() + EPSILON
        if how < 1 - settings.prior:
            tail = int(rng.integers(1, settings.tail + 1))
            return *masked_layout(reference, probability, tail, rng), probability
        probability = max(probability, 0.15)  # a draft with nearly all settled teaches little
        probability = 1.0 if rng.random() < 0.5 else probability  # decoding always begins there
        options = CanvasOptions(threshold=rng.uniform(*settings.thresholds))
        draft = ctc_draft(frames, rng.uniform(*settings.penalties))
        return *draft_layout(draft, reference, options, probability, rng), probability

    def decoder(self, model: Denoiser) -> DenoisingDecoder:
        """The paper's loop with its defaults, whatever the model's own choices are."""
        return DenoisingDecoder(model, self.tokenizer, dataclasses.asdict(DenoisingDecode()))


class TwinTask(_SpeechTask):
    """Next-token cross-entropy for the autoregressive twin."""

    causal = True

    def loss(self, model: Denoiser, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        heard = self.listen(batch, training=True)
        device = heard.hidden.device
        inputs, wanted = teacher_forced(references(batch))
        logits = model.denoise(inputs.to(device), model.remember(heard.hidden, heard.lengths))
        loss = token_loss(logits, wanted.to(device))
        return loss, {}

    def decoder(self, model: Denoiser) -> TwinDecoder:
        return TwinDecoder(model, self.tokenizer)


def references(batch: dict[str, Tensor]) -> list[list[int]]:
    """Token ids of the texts of a batch, without padding."""
    return [row[:n].tolist() for row, n in zip(batch["tokens"], batch["token_lengths"].tolist(), strict=True)]
