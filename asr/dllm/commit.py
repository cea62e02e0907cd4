"""Commit rules: which masked positions a denoising pass settles.

A rule gets what the denoiser believes and returns the positions to commit. Every rule commits at least the most
confident open position of a row, so that each pass makes progress.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from asr.hub import HubModel

ROWS = 4  # of logits that are judged at once


@dataclass
class Beliefs:
    """What a pass says about the canvas; positions that are not open have confidence 0.

    Attributes:
        confidence: [batch, n] probability of the best token.
        entropy: [batch, n] of the distribution, in nats.
        open: [batch, n] True where a position is still a mask.
        number: of the pass, from 0.
    """

    confidence: Tensor
    entropy: Tensor
    open: Tensor
    number: int

    def best(self) -> Tensor:
        """[batch, n], True at the most confident open position of each row that has one."""
        chosen = torch.zeros_like(self.open)
        chosen.scatter_(1, self.confidence.masked_fill(~self.open, -1.0).argmax(1, keepdim=True), True)
        return chosen & self.open

    def ranks(self) -> Tensor:
        """[batch, n] rank of each position by confidence, 0 for the most confident open one."""
        order = self.confidence.masked_fill(~self.open, -1.0).argsort(dim=1, descending=True, stable=True)
        return order.argsort(dim=1)


def judged(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probability of the best token, entropy in nats, best token, each [...], of logits [..., vocabulary].

    The logits are finite and are written over. A few rows at a time, they stay in a processor's cache.
    """
    rows = logits.flatten(0, -2)
    parts = [_judged(some) for some in (rows.split(ROWS) if logits.device.type == "cpu" else [rows])]
    return tuple(torch.cat(same).view(logits.shape[:-1]) for same in zip(*parts, strict=True))


def _judged(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    best = logits.argmax(-1)
    logits -= logits.gather(-1, best[:, None])
    shares = logits.exp()
    total = shares.sum(-1)
    return 1 / total, total.log() - torch.linalg.vecdot(shares, logits) / total, best


@dataclass(frozen=True)
class Threshold:
    """Everything with confidence of at least `tau` (Fast-dLLM, arXiv 2505.22618; dLLM-ASR uses 0.9)."""

    tau: float = 0.9

    def __call__(self, beliefs: Beliefs) -> Tensor:
        return (beliefs.open & (beliefs.confidence >= self.tau)) | beliefs.best()


@dataclass(frozen=True)
class Factor:
    """The longest run of positions in order of confidence whose n-th has c_n >= 1 - factor / (n + 1) (Fast-dLLM)."""

    factor: float = 1.0

    def __call__(self, beliefs: Beliefs) -> Tensor:
        ordered, order = beliefs.confidence.masked_fill(~beliefs.open, -1.0).sort(dim=1, descending=True, stable=True)
        n = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
        accepted = (ordered >= 1 - self.factor / (n + 1)).cumprod(1).bool()
        accepted[:, 0] = True
        return torch.zeros_like(beliefs.open).scatter_(1, order, accepted) & beliefs.open


@dataclass(frozen=True)
class EntropyBound:
    """Positions of lowest entropy while the entropies of those before sum up to at most `bound` nats (DiffusionGemma).

    The sum leaves the current position out, so the first is always taken.
    """

    bound: float = 0.3

    def __call__(self, beliefs: Beliefs) -> Tensor:
        ordered, order = beliefs.entropy.masked_fill(~beliefs.open, math.inf).sort(dim=1, stable=True)
        accepted = (ordered.cumsum(1) - ordered) <= self.bound
        accepted[:, 0] = True
        return torch.zeros_like(beliefs.open).scatter_(1, order, accepted) & beliefs.open


@dataclass(frozen=True)
class FixedPasses:
    """So many per pass that all is settled after a given number of passes (LLaDA, Mask-CTC's easy-first)."""

    passes: int = 10

    def __call__(self, beliefs: Beliefs) -> Tensor:
        left = max(1, self.passes - beliefs.number)
        share = -(-beliefs.open.sum(1, keepdim=True) // left)
        return (beliefs.ranks() < share.clamp(min=1)) & beliefs.open


@dataclass(frozen=True)
class OneByOne:
    """One position a pass: slow and sequential, the reference for the others."""

    def __call__(self, beliefs: Beliefs) -> Tensor:
        return beliefs.best()


class Filter(nn.Module, HubModel):
    """Learn2PD (arXiv 2509.25188): a tiny network that tells from confidences whether a token is final already.

    It sees confidence and entropy of each open position and its neighbours, and whether they are open.
    """

    def __init__(self, width: int = 16, kernel: int = 5, threshold: float = 0.5):
        super().__init__()
        self.threshold = threshold
        self.network = nn.Sequential(
            nn.Conv1d(4, width, kernel, padding=kernel // 2),
            nn.GELU(),
            nn.Conv1d(width, 1, kernel, padding=kernel // 2),
        )

    def forward(self, beliefs: Beliefs) -> Tensor:
        """Log-odds [batch, n] that the best token of a position will be its final one."""
        odds = torch.logit(beliefs.confidence.float().clamp(1e-4, 1 - 1e-4)) / 4
        is_open = beliefs.open.float()
        passes = torch.full_like(odds, min(beliefs.number, 8) / 8)
        features = torch.stack((odds * is_open, beliefs.entropy.float() * is_open, is_open, passes), dim=1)
        return self.network(features).squeeze(1)


@dataclass(frozen=True)
class Learned:
    """What a trained filter holds for final."""

    filter: Filter
    threshold: float | None = None  # probability; None: the filter's own

    @torch.inference_mode()
    def __call__(self, beliefs: Beliefs) -> Tensor:
        threshold = self.filter.threshold if self.threshold is None else self.threshold
        final = torch.sigmoid(self.filter(beliefs)) >= threshold
        return (final & beliefs.open) | beliefs.best()


RULES = {
    "threshold": Threshold,
    "factor": Factor,
    "entropy": EntropyBound,
    "fixed": lambda passes: FixedPasses(int(passes)),
    "one": lambda: OneByOne(),
}


def commit_rule(name: str, filter_folder: str | Path | None = None):
    """The rule that a text names: "threshold:0.9", "factor:1", "entropy:0.3", "fixed:10", "one", "learned[:0.5]".

    Args:
        filter_folder: where the trained filter of "learned" lies.

    Raises:
        ValueError: no such rule, or a wrong number.
    """
    kind, _, number = name.partition(":")
    try:
        values = [float(number)] if number else []
    except ValueError:
        raise ValueError(f"commit rule {name!r}: {number!r} is no number") from None
    try:
        if kind == "learned":
            if filter_folder is None:
                raise ValueError(f"commit rule {name!r} needs a trained filter: python -m recipes.train_filter")
            return Learned(Filter.from_pretrained(filter_folder).eval(), *values)
        return RULES[kind](*values)
    except (KeyError, TypeError):
        known = ", ".join((*RULES, "learned"))
        raise ValueError(f"commit rule {name!r} is unknown: give one of {known}, most with :NUMBER") from None
