"""NI-Encoder: the student that reads noisy speech and answers as the teachers do on clean speech.

    L = w_a d(S_a(noisy), z_a(clean)) + w_s d(S_s(noisy), z_s(clean))

Source: arXiv 2605.08608. The form of d and the weights are not published: mean squared error, mean absolute
error and cosine distance are choices here. Targets are standardised per feature, so no feature dominates.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enhance.l3se.backbone import Backbone, WeightedSum, make_backbone
from enhance.l3se.part import Part

HEADS = ("acoustic", "semantic")
LEAST = -6.0  # logit that a state starts from whose share was next to none: from less, no gradient would reach it
DISTANCES = {
    "mse": lambda estimate, target: F.mse_loss(estimate, target),
    "l1": lambda estimate, target: F.l1_loss(estimate, target),
    "cosine": lambda estimate, target: 1 - F.cosine_similarity(estimate, target, dim=-1).mean(),
}


class NIEncoder(Part):
    """A backbone with one aggregation head for each teacher.

    Args:
        backbone: sizes (`Backbone.spec`).
        heads: which of "acoustic" and "semantic"; one alone is an arm of the ablation.

    Raises:
        ValueError: no head, or an unknown one.
    """

    stage = "l3se_encoder"

    def __init__(self, backbone: dict, heads: list[str] = HEADS):
        super().__init__()
        if not heads or set(heads) - set(HEADS):
            raise ValueError(f"heads are {list(heads)}; choose one or both of {', '.join(HEADS)}")
        self.backbone = make_backbone(backbone)
        width, widths = self.backbone.width, self.backbone.widths
        self.heads = nn.ModuleDict({name: WeightedSum(widths, width) for name in heads})
        self.register_buffer("mean", torch.zeros(len(heads), width))
        self.register_buffer("deviation", torch.ones(len(heads), width))

    @classmethod
    def from_teachers(cls, backbone: Backbone, teachers: dict[str, nn.Module]) -> NIEncoder:
        """Weights of the backbone and of the teachers' aggregation: on clean speech it starts next to where they are.

        Args:
            teachers: those to learn from (`WavCodec`, `WavS2T`) by the name of the head.
        """
        encoder = cls(backbone.spec, list(teachers))
        encoder.backbone.load_state_dict(backbone.state_dict())
        for name, teacher in teachers.items():
            encoder.heads[name].load_state_dict(copy.deepcopy(teacher.aggregate.state_dict()))
            encoder.heads[name].logits.data.clamp_(min=LEAST)
        return encoder

    @property
    def hop(self) -> int:
        return self.backbone.hop

    @property
    def condition_width(self) -> int:
        return self.mean.numel()

    def set_statistics(self, targets: dict[str, Tensor]) -> None:
        """Mean and deviation of each feature of the targets [batch, frames, width]."""
        for number, name in enumerate(self.heads):
            values = targets[name].flatten(0, -2).float()
            self.mean[number], self.deviation[number] = values.mean(0), values.std(0) + 1e-3

    def standardise(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Representations or targets in units of the targets' deviation."""
        return {
            name: (values[name].float() - self.mean[number]) / self.deviation[number]
            for number, name in enumerate(self.heads)
        }

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Waves [batch, samples] -> representations [batch, frames, width] by head, frames [batch]."""
        states, frames = self.backbone(waves, lengths)
        return {name: head(states) for name, head in self.heads.items()}, frames

    def condition(self, waves: Tensor) -> Tensor:
        """What the language model reads: both representations, standardised, [batch, frames, condition_width]."""
        return torch.cat(list(self.standardise(self(waves)[0]).values()), -1)


def distillation_loss(
    encoder: NIEncoder,
    estimates: dict[str, Tensor],
    targets: dict[str, Tensor],
    distance: str,
    weights: dict[str, float],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum over the heads and the distance of each, in standardised units.

    Raises:
        ValueError: an unknown distance.
    """
    if distance not in DISTANCES:
        raise ValueError(f"distance is {distance!r}; choose from {', '.join(DISTANCES)}")
    estimates, targets = encoder.standardise(estimates), encoder.standardise(targets)
    parts = {name: DISTANCES[distance](estimates[name], targets[name]) for name in encoder.heads}
    return sum(weights.get(name, 1.0) * part for name, part in parts.items()), parts


def similarities(encoder: NIEncoder, estimates: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, float]:
    """Mean cosine similarity of standardised representations and targets, by head."""
    with torch.no_grad():
        estimates, targets = encoder.standardise(estimates), encoder.standardise(targets)
        return {name: float(1 - DISTANCES["cosine"](estimates[name], targets[name])) for name in encoder.heads}
