"""WavS2T: the semantic teacher, speech to text on the layers of the frozen backbone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.ctc.beam import greedy
from asr.ctc.model import ctc_loss
from asr.text.tokenizer import Tokenizer
from enhance.l3se.backbone import WeightedSum
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
