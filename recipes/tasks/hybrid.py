"""Training the hybrid recogniser: CTC branch and text decoder together, from Whisper's weights or from its own.

The loss is that of Watanabe et al. 2017, "Hybrid CTC/attention architecture", Eq. 12: a weighted sum of CTC and of the
decoder's cross-entropy.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.ar.greedy import IGNORED, decode_greedily
from asr.ctc.beam import greedy
from asr.ctc.model import ctc_loss
from asr.hybrid.branch import BranchSizes
from asr.hybrid.encoder import within
from asr.hybrid.model import HybridModel
from asr.hybrid.start import from_whisper
from asr.score import error_counts, normalised
from asr.text.tokenizer import Tokenizer, written_text
from recipes.data.corpora import read_sentences
from recipes.data.speech_data import SpeechData
from recipes.data.written_speech import WrittenBatches
from recipes.training.optimisation import freeze
from recipes.training.token_loss import token_loss

COUNTED_SENTENCES = 500_000  # say well enough which tokens English needs


@dataclass
class HybridStart:
    """Where the weights come from.

    Args:
        name: folder or Hub id of Whisper, or folder of a hybrid model.
        units: JSON file of the branch's vocabulary (`recipes.prepare tokenizer --written`); None: that of the hybrid
            model `name`.
        sentences: written English that says which of Whisper's tokens the decoder keeps.
        at_least: how often a token must occur in them.
        branch: sizes of the branch. One of the same sizes and units keeps its weights, another starts afresh.
        dropout: of the decoder while it trains.
    """

    name: str
    units: str | None
    sentences: str | None = None
    at_least: int = 2
    branch: BranchSizes = field(default_factory=BranchSizes)
    dropout: float = 0.0

    def model(self) -> HybridModel:
        """The model to train.

        Raises:
            ValueError: a Whisper's vocabulary is to be cut and nothing says by what, or the branch has no units.
        """
        start = HybridModel.from_pretrained(self.name) if is_hybrid(self.name) else None
        if start is None and (self.units is None or self.sentences is None):
            raise ValueError(f"{self.name} is a Whisper: start.units and start.sentences have to name files")
        units = start.units if self.units is None else Tokenizer.load(self.units)
        branch = dataclasses.replace(self.branch, units=len(units))
        if start is None:
            start = from_whisper(self.name, units, self.counted(), branch, self.at_least)
        return rebuilt(start, branch, units, self.dropout)

    def counted(self) -> list[str]:
        """Sentences spread over the file, in the characters that targets have."""
        sentences = read_sentences(self.sentences)
        return [written_text(s) for s in sentences[:: max(1, len(sentences) // COUNTED_SENTENCES)]]


def is_hybrid(name: str) -> bool:
    config = Path(name) / "config.json"
    return config.is_file() and "branch" in json.loads(config.read_text(encoding="utf-8"))


def rebuilt(start: HybridModel, branch: BranchSizes, units: Tokenizer, dropout: float) -> HybridModel:
    """The same encoder and decoder with a dropout, and the same branch if it is of these sizes and units.

    Slot layers, of a model that has a denoiser, come along as they are: `SlotDenoiserTask` trains them.
    """
    decoder = dataclasses.replace(start.decoder.sizes, dropout=dropout)
    model = HybridModel.create(start.encoder.sizes, branch, decoder, units, start.tokenizer)
    same = start.branch.sizes == branch and start.units.pieces == units.pieces
    for part in ("encoder", "decoder", "branch") if same else ("encoder", "decoder"):
        getattr(model, part).load_state_dict(getattr(start, part).state_dict())
    if start.slots is not None:
        model.denoising, model.writes_with = start.denoising, start.writes_with
        model = model.with_slots(start.slots.sizes)
        model.slots.load_state_dict(start.slots.state_dict())
        model.slots.requires_grad_(False)
    return model


class HybridTask:
    """Task for `recipes.training.engine.Trainer`.

    Args:
        start: where the weights come from.
        data: stores of Whisper features with written text, and batching.
        ctc: weight of the branch's loss; the decoder's has the rest, and with 1 is not computed.
        rates: shares of the learning rate by part of the model; the rest learns at the full rate.
        frozen: parts that stay as they are.
        label_steps: so many steps the branch learns the labels of frames, which stores made with `--align` have, in
            place of CTC.
        teacher: folder of a hybrid model with the same units and stride, whose branch this one imitates frame by frame
            in place of CTC (Hinton et al. 2015, Sec. 2): a fresh branch need not find out again which frame says what.
        padded: hear every utterance padded to 30 s, as Whisper does; for comparison.
        seed: of fresh weights, data order and masks.
    """

    def __init__(
        self,
        start: HybridStart,
        data: SpeechData,
        ctc: float = 0.4,
        rates: dict[str, float] | None = None,
        frozen: list[str] | None = None,
        label_steps: int = 0,
        teacher: str | None = None,
        padded: bool = False,
        seed: int = 0,
    ):
        torch.manual_seed(seed)
        self.ctc, self.rates, self.label_steps = ctc, rates or {}, label_steps
        self.model = start.model()
        freeze(self.model, frozen)
        self.teacher = None if teacher is None else teaches(teacher, self.model)
        self.speech = WrittenBatches(data, self.model, seed, padded)
        self.train_batches, self.load = self.speech.plan, self.speech.load
        if label_steps and not self.speech.has_labels():
            raise ValueError(f"label_steps is {label_steps}, but no store has times of words: recipes.prepare --align")
        if label_steps and data.warp is not None and data.warp.probability:
            raise ValueError(f"label_steps is {label_steps}: labels of frames go with data.warp.probability=0 only")

    def loss(self, model: HybridModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        hidden, frames, log_probabilities, steps = model(batch["features"], batch["lengths"])
        by_labels = batch["step"] < self.label_steps
        if by_labels:
            branch = _nll(log_probabilities, batch["labels"])
        elif self.teacher is not None:
            branch = self._imitated(batch, log_probabilities, steps)
        else:
            branch = ctc_loss(log_probabilities, steps, batch["units"], batch["unit_lengths"])
        kind = "labels" if by_labels else "ctc" if self.teacher is None else "imitation"
        logs = {kind: float(branch.detach())}
        if self.ctc == 1:
            return branch, logs
        logits = model.decoder(batch["inputs"], model.decoder.remember(hidden, frames))
        decoder = token_loss(logits, batch["wanted"])
        logs["decoder"] = float(decoder.detach())
        return self.ctc * branch + (1 - self.ctc) * decoder, logs

    def _imitated(self, batch: dict[str, Tensor], log_probabilities: Tensor, steps: Tensor) -> Tensor:
        """Mean divergence of what the branch says of each frame from what the teacher says."""
        with torch.no_grad():
            *_, wanted, _ = self.teacher.to(steps.device)(batch["features"], batch["lengths"])
        real = within(log_probabilities.shape[1], steps)
        return F.kl_div(log_probabilities[real], wanted[real], log_target=True, reduction="batchmean")

    @torch.inference_mode()
    def validate(self, model: HybridModel) -> dict[str, float]:
        """Word error rate of the decoder and of the branch's best path, by Whisper's normaliser."""
        references, written, drafts = [], [], []
        device = model.branch.head.weight.device
        for batch, texts in self.speech.held_out():
            hidden, frames, log_probabilities, steps = model(batch["features"].to(device), batch["lengths"].to(device))
            drafts += [found.text for found in greedy(log_probabilities, steps, model.units)]
            decoded = decode_greedily(model.decoder, model.decoder.remember(hidden, frames))
            written += [model.tokenizer.decode(tokens) for tokens in decoded.tokens]
            references += texts
        said, texts = normalised(references), {"wer": written, "wer_ctc": drafts}
        return {name: error_counts(said, normalised(found)).rate for name, found in texts.items()}

    def export(self, model: HybridModel, folder: Path) -> None:
        model.save_half(folder)


def teaches(folder: str, model: HybridModel) -> HybridModel:
    """The hybrid model of a folder.

    Raises:
        ValueError: its branch says something else than the model's.
    """
    teacher = HybridModel.from_pretrained(folder).eval().requires_grad_(False)
    theirs, ours = ((m.units.pieces, m.branch.sizes.stride) for m in (teacher, model))
    if theirs != ours:
        raise ValueError(
            f"teacher {folder}: {len(theirs[0])} units at a stride of {theirs[1]}, the model has {len(ours[0])} at "
            f"{ours[1]}; both must be the same (model.units, model.branch.stride)"
        )
    return teacher


def _nll(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-probability of the labels [batch, steps] of frames; 0 where all are unknown."""
    labels = nn.functional.pad(labels, (0, log_probabilities.shape[1] - labels.shape[1]), value=IGNORED)
    loss = F.nll_loss(log_probabilities.transpose(1, 2), labels, ignore_index=IGNORED, reduction="sum")
    return loss / (labels != IGNORED).sum().clamp(min=1)
