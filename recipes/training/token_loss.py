"""Cross-entropy of tokens over large vocabularies."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from asr.ar.greedy import IGNORED


def token_loss(logits: Tensor, wanted: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats, in float32.

    Tokens stand in rows, so that those of the vocabulary lie side by side: with the vocabulary as the second of three
    dimensions, as `cross_entropy` wants sequences, 42,000 tokens take twice the time.

    Args:
        logits: [batch, length, vocabulary].
        wanted: [batch, length], `IGNORED` where nothing can be said.
        reduction: "mean" over what is wanted, or "none".

    Returns:
        A scalar, or [batch, length] with 0 where nothing is wanted.
    """
    loss = F.cross_entropy(
        logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED, reduction=reduction
    )
    return loss.view(wanted.shape) if reduction == "none" else loss
