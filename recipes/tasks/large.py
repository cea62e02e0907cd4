"""Training large recognisers: projector, LoRA and CTC branch between a speech encoder and a language model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asr.ar.decoders import TwinDecoder
from asr.ar.greedy import IGNORED
from asr.audio.augment import seeded
from asr.ctc.beam import best_path
from asr.ctc.model import ctc_loss
from asr.dllm.canvas import Canvas, CanvasOptions, Layout, lay_out, targets
from asr.dllm.decoder import DenoisingDecoder
from asr.parts import Listened
from asr.pretrained.config import LargeASRConfig
from asr.pretrained.model import LargeASR
from asr.pretrained.parts import start_from_activations
from asr.score import error_counts
from asr.text.tokenizer import Tokenizer, normalise_text
from recipes.data.shard_data import ShardData
from recipes.data.table_data import TableData
from recipes.tasks.denoiser import EPSILON
from recipes.training.token_loss import token_loss

EVA_BATCHES = 8


@dataclass
class Corruption:
    """How canvases are made from reference texts.

    Args:
        full: share with every position masked (about 20 % in dLLM-ASR).
        prior: share laid out from the draft of the model's own CTC branch, once that has learned something; the
            rest is masked at random (LLaDA, arXiv 2502.09992, Sec. 2.1).
        thresholds: range of the confidence below which the draft is masked.
        tail: most end-of-text tokens behind the text; they are masked and learned like text.
    """

    full: float = 0.2
    prior: float = 0.0
    thresholds: tuple[float, float] = (0.5, 1.0)
    tail: int = 24


class _LargeTask:
    """What both tasks share.

    Args:
        model: the parts.
        tokenizer: JSON file of the CTC branch's vocabulary (`python -m recipes.prepare tokenizer`); None takes that
            of the recogniser that ships.
        data: tables of recordings, or shards.
        ctc_weight: weight of the CTC branch's loss.
        seed: seed of new weights, data order and masks.
        init: folder of a large recogniser whose trained weights start this one, as stage 1 does stage 2.
    """

    causal: bool

    def __init__(
        self,
        model: LargeASRConfig,
        data: TableData | ShardData,
        tokenizer: str | None = None,
        ctc_weight: float = 0.3,
        seed: int = 0,
        init: str | None = None,
    ):
        torch.manual_seed(seed)
        self.tokenizer = load_units(tokenizer)
        self.model = LargeASR.create(model, self.tokenizer)
        if self.model.is_causal != self.causal:
            kind = model.language_model.kind
            raise ValueError(f"{type(self).__name__} cannot train a language model of kind {kind!r}")
        self.ctc_weight = ctc_weight
        self.data = data.batches(seed)
        self.train_batches = self.data.plan
        if model.lora and model.lora.start == "eva":
            self._start_from_activations()
        if init:
            self._start_from(LargeASR.from_pretrained(init))

    def _start_from(self, other: LargeASR) -> None:
        """Take over what the other one has trained, where it fits."""
        own = self.model.state_dict()
        fitting = {k: v for k, v in other.trained_state().items() if k in own and own[k].shape == v.shape}
        self.model.load_state_dict(fitting, strict=False)

    def _start_from_activations(self) -> None:
        plans = islice(self.train_batches(0, 0, 1), EVA_BATCHES)
        passes = (lambda plan=plan: self.loss(self.model.eval(), self.load(plan)) for plan in plans)
        start_from_activations(self.model.language_model.network, passes)

    def load(self, plan) -> dict[str, object]:
        """Inputs of the encoder (`in:...`), texts, CTC targets and the seed of the masks."""
        waves, texts = self.data.read(plan)
        texts = [normalise_text(text) for text in texts]
        units = [torch.tensor(self.tokenizer.encode(text), dtype=torch.long) for text in texts]
        return {
            **{f"in:{key}": value for key, value in self.model.encoder.features(waves).items()},
            "texts": texts,
            "units": nn.utils.rnn.pad_sequence(units, batch_first=True),
            "unit_lengths": torch.tensor([len(u) for u in units]),
            "seed": torch.tensor(plan.seed),
            "seconds": sum(map(len, waves)) / self.model.encoder.sampling_rate,
        }

    def loss(self, model: LargeASR, batch: dict[str, object]) -> tuple[Tensor, dict[str, float]]:
        frames, lengths = model.listen({k[3:]: v for k, v in batch.items() if k.startswith("in:")})
        log_probs = model.ctc_log_probabilities(frames)
        ctc = ctc_loss(log_probs, lengths, batch["units"], batch["unit_lengths"])
        text = self.text_loss(model, batch, Listened.of(frames, lengths, log_probs))
        return text + self.ctc_weight * ctc, {"text": float(text.detach()), "ctc": float(ctc.detach())}

    def text_loss(self, model: LargeASR, batch: dict[str, object], heard: Listened) -> Tensor:
        """The language model's part of the loss."""
        raise NotImplementedError

    @torch.inference_mode()
    def validate(self, model: LargeASR) -> dict[str, float]:
        """Word error rate of the texts and of the CTC branch on held-out recordings."""
        device = model.ctc.weight.device
        found, drafts, references = [], [], []
        for waves, texts in self.data.held_out():
            inputs = {key: value.to(device) for key, value in model.encoder.features(waves).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                frames, lengths = model.listen(inputs)
                heard = Listened.of(frames, lengths, model.ctc_log_probabilities(frames))
                rows = self.decode(model, heard)
            found += [normalise_text(model.tokens.decode(row)) for row in rows]
            drafts += [best_path(frames, self.tokenizer).text for frames in heard.posteriors]
            references += [normalise_text(text) for text in texts]
        return {"wer": error_counts(references, found).rate, "wer_prior": error_counts(references, drafts).rate}

    def decode(self, model: LargeASR, heard: Listened) -> list[list[int]]:
        """Token ids of the texts of a batch."""
        raise NotImplementedError

    def export(self, model: LargeASR, folder: Path) -> None:
        model.save_pretrained(folder)


class LargeDenoiserTask(_LargeTask):
    """Masked diffusion over the answer and the ends of text behind it; prompt and speech are never masked."""

    causal = False

    def __init__(
        self, model: LargeASRConfig, data: TableData | ShardData, corruption: Corruption | None = None, **options
    ):
        self.corruption = corruption or Corruption()
        super().__init__(model, data, **options)

    def text_loss(self, model: LargeASR, batch: dict[str, object], heard: Listened) -> Tensor:
        """Cross-entropy of masked slots over their mask probability, summed, divided by the number of slots."""
        rng = seeded(*batch["seed"].tolist())
        rows = [
            self._example(model, text, frames, rng)
            for text, frames in zip(batch["texts"], heard.posteriors, strict=True)
        ]
        tokens = model.tokens
        device = heard.hidden.device
        canvas = Canvas.of([layout for layout, *_ in rows], pad=tokens.end).to(device)
        width = canvas.tokens.shape[1]
        wanted = torch.tensor([row + [IGNORED] * (width - len(row)) for _, row, _ in rows], device=device)
        wanted = wanted.masked_fill(canvas.tokens != tokens.mask, IGNORED)
        speech = model.remember(heard.hidden, heard.lengths, cached=False)
        logits = model.denoise(canvas.tokens, speech, valid=canvas.valid)
        entropy = token_loss(logits, wanted, "none")
        probability = torch.tensor([p for *_, p in rows], device=device)
        return (entropy / probability[:, None]).sum() / canvas.valid.sum()

    def _example(self, model: LargeASR, text: str, frames: Tensor, rng: np.random.Generator):
        """One canvas: layout, what its slots should become, mask probability."""
        tokens, settings, how = model.tokens, self.corruption, rng.random()
        answer = tokens.encode(text)
        probability = 1.0 if how < settings.full else (1 - EPSILON) * rng.random() + EPSILON
        if how < 1 - settings.prior:
            wanted, layout = answer + [tokens.end] * int(rng.integers(1, settings.tail + 1)), Layout()
            for i, token in enumerate(wanted):
                layout.add(tokens.mask if rng.random() < probability else token, 0.0, i, gap=False)
            return layout, wanted, probability
        options = CanvasOptions(threshold=rng.uniform(*settings.thresholds), slots=tokens.null is not None)
        draft = tokens.draft(frames, self.tokenizer)
        layout = lay_out(draft, options, tokens.mask)
        null = IGNORED if tokens.null is None else tokens.null
        wanted, _ = targets(layout, draft, answer, tokens.end, null)
        return layout, wanted, 1.0

    def decode(self, model: LargeASR, heard: Listened) -> list[list[int]]:
        return DenoisingDecoder(model, self.tokenizer)(heard).tokens


class LargeTwinTask(_LargeTask):
    """Next-token cross-entropy for the autoregressive baseline."""

    causal = True

    def text_loss(self, model: LargeASR, batch: dict[str, object], heard: Listened) -> Tensor:
        end, device = model.tokens.end, heard.hidden.device
        rows = [torch.tensor([*model.tokens.encode(text), end]) for text in batch["texts"]]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=end).to(device)
        counts = torch.tensor([len(row) for row in rows], device=device)
        valid = torch.arange(tokens.shape[1], device=device) < counts[:, None]
        speech = model.remember(heard.hidden, heard.lengths, cached=False)
        logits = model.language_model.next_logits(tokens, valid, speech)
        wanted = tokens.masked_fill(~valid, IGNORED)
        return token_loss(logits, wanted)

    def decode(self, model: LargeASR, heard: Listened) -> list[list[int]]:
        return TwinDecoder(model, self.tokenizer)(heard).tokens


def load_units(tokenizer: str | None) -> Tokenizer:
    """The vocabulary of the CTC branch: a file's, or that of the recogniser that ships."""
    if tokenizer:
        return Tokenizer.load(tokenizer)
    import json

    from asr.loading import shipped

    return Tokenizer(json.loads((shipped(None) / "config.json").read_text(encoding="utf-8"))["units"])
