"""The semantic teacher, speech to text on the layers of the frozen backbone: WavS2T, or a recogniser's CTC branch."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.ctc.beam import greedy
from asr.ctc.model import ctc_loss
from asr.hub import model_file
from asr.hybrid.branch import CTCBranch
from asr.loading import shipped
from asr.text.tokenizer import Tokenizer
from enhance.l3se.backbone import FOLDER, Backbone, WeightedSum, WhisperBackbone, load_backbone
from enhance.l3se.part import Part


class WavS2T(Part):
    """CTC on a weighted sum z_s of the hidden states, with layer weights of its own.

    Args:
        widths: of the backbone's hidden states.
        width: of z_s.
        tokenizer: JSON definition of the vocabulary.
    """

    stage = "l3se_semantic"

    def __init__(self, widths: list[int], width: int, tokenizer: str):
        super().__init__()
        self.tokenizer = Tokenizer(tokenizer)
        self.aggregate = WeightedSum(widths, width)
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, len(self.tokenizer)))

    def represent(self, states: list[Tensor]) -> Tensor:
        """Hidden states of the backbone -> z_s [batch, frames, width]."""
        return self.aggregate(states)

    def forward(self, states: list[Tensor]) -> Tensor:
        """Log-probabilities [batch, frames, vocabulary] of hidden states."""
        return F.log_softmax(self.head(self.represent(states)).float(), dim=-1)

    def loss(self, states: list[Tensor], frames: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
        """CTC loss per token; tokens are [batch, longest], frames and token_lengths [batch]."""
        return ctc_loss(self(states), frames, tokens, token_lengths)

    @torch.inference_mode()
    def transcribe(self, states: list[Tensor], frames: Tensor) -> list[str]:
        """Texts of a batch, by the best path."""
        return [hypothesis.text for hypothesis in greedy(self(states), frames, self.tokenizer)]


class BranchTeacher(nn.Module):
    """The CTC branch of a hybrid recogniser, which listens to a mixture of the encoder's states or to the last alone.

    z_s is what it listens to, so the teacher needs no training; the log-mel input of the backbone has no share in it.
    """

    LEAST = -30.0  # logit of a state without a share

    def __init__(self, branch: CTCBranch, tokenizer: Tokenizer, widths: tuple[int, ...]):
        super().__init__()
        self.branch, self.tokenizer = branch, tokenizer
        self.aggregate = WeightedSum(widths, widths[-1])
        heard = len(branch.norms)  # states, from the top
        with torch.no_grad():
            self.aggregate.logits.fill_(self.LEAST)
            self.aggregate.logits[-heard:] = 0.0 if branch.mixture is None else branch.mixture
        for own, norm in zip(self.aggregate.norms[-heard:], branch.norms, strict=True):
            own.load_state_dict(norm.state_dict())

    def represent(self, states: list[Tensor]) -> Tensor:
        """Hidden states of the backbone -> z_s [batch, frames, width]."""
        return self.aggregate(states)

    @torch.inference_mode()
    def transcribe(self, states: list[Tensor], frames: Tensor) -> list[str]:
        """Texts of a batch, by the best path."""
        log_probabilities, steps = self.branch.read(self.represent(states), frames)
        return [hypothesis.text for hypothesis in greedy(log_probabilities, steps, self.tokenizer)]


def semantic_teacher(name: str | Path) -> tuple[Backbone, WavS2T | BranchTeacher]:
    """A teacher with the backbone that it stands on, both frozen.

    Args:
        name: folder of the second stage; or a hybrid recogniser ("tiny", which ships, a folder or Hub id), whose
            branch then teaches.

    Raises:
        FileNotFoundError: neither is there.
    """
    if (Path(name) / FOLDER).is_dir():
        return load_backbone(Path(name) / FOLDER).frozen(), WavS2T.from_pretrained(name).requires_grad_(False)
    from asr.hybrid.model import HybridModel

    place = shipped(name)
    if not _has_branch(place):
        raise FileNotFoundError(
            f"{name} is no semantic teacher: name a hybrid recogniser, whose CTC branch then teaches, or "
            f"train one on the backbone with python -m recipes.train experiment={WavS2T.stage}"
        )
    model = HybridModel.from_pretrained(place).eval().requires_grad_(False)
    backbone = WhisperBackbone.holding(model.encoder).frozen()
    return backbone, BranchTeacher(model.branch, model.units, backbone.widths).eval().requires_grad_(False)


def _has_branch(place: str | Path) -> bool:
    """Whether a hybrid recogniser is there."""
    try:
        file = model_file(place, "config.json")
    except OSError:
        return False
    return file is not None and "branch" in json.loads(file.read_text(encoding="utf-8"))
