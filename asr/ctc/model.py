"""The recogniser: encoder and CTC head, with the vocabulary inside the checkpoint."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.audio.features import FRAME_HOP, SAMPLING_RATE, LogMel
from asr.ctc.encoder import SUBSAMPLING, Encoder, EncoderConfig
from asr.hub import HubModel
from asr.text.tokenizer import Tokenizer

NUM_CHARACTERS = 29  # blank, space, apostrophe, a-z


class CTCModel(nn.Module, HubModel):
    """Log-mel features in, log-probabilities over the vocabulary for every 40 ms out.

    Connectionist temporal classification (Graves et al. 2006) with an intermediate loss on characters (Lee &
    Watanabe 2021; Higuchi et al. 2022), which finds the alignment long before the sub-word head does.

    Args:
        encoder: fields of `EncoderConfig`.
        tokenizer: JSON definition of the vocabulary.
        calibration: slope and offset that turn raw word scores into confidences (`asr.ctc.timing.calibrated`),
            for each decoder; fitted by `python -m recipes.calibrate`.
        beam: fields of `asr.ctc.beam.BeamOptions` tuned for this model and its language model.
    """

    hop_seconds = FRAME_HOP * SUBSAMPLING / SAMPLING_RATE

    def __init__(
        self,
        encoder: dict,
        tokenizer: str,
        calibration: dict[str, tuple[float, float]] | None = None,
        beam: dict[str, float] | None = None,
    ):
        super().__init__()
        config = EncoderConfig(**{**encoder, "layers": tuple(encoder.get("layers", EncoderConfig.layers))})
        self.tokenizer = Tokenizer(tokenizer)
        self.calibration, self.beam = calibration or {}, beam or {}
        self.log_mel = LogMel(config.num_mels)
        self.encoder = Encoder(config)
        self.head = nn.Linear(config.width, len(self.tokenizer))
        self.character_head = nn.Linear(config.width, NUM_CHARACTERS)

    @classmethod
    def create(cls, config: EncoderConfig, tokenizer: Tokenizer) -> CTCModel:
        return cls(encoder=dataclasses.asdict(config), tokenizer=tokenizer.definition)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """features [batch, frames, mel], lengths [batch] -> log-probabilities [batch, frames', vocabulary], lengths."""
        hidden, _, lengths = self.encoder(features, lengths)
        return self.log_probabilities(hidden), lengths

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Encoder output [batch, frames, width] -> float32 log-probabilities [batch, frames, vocabulary]."""
        return F.log_softmax(self.head(hidden).float(), dim=-1)

    def loss(self, batch: dict[str, Tensor], intermediate: float = 0.3) -> tuple[Tensor, Tensor]:
        """CTC loss per token of a batch, on sub-words and on characters; weigh them with `intermediate`.

        Args:
            batch: features, lengths, tokens [batch, n], token_lengths, characters [batch, m], character_lengths.

        Returns:
            the weighted loss, and the sub-word loss alone.
        """
        hidden, early, lengths = self.encoder(batch["features"], batch["lengths"])
        main = ctc_loss(self.log_probabilities(hidden), lengths, batch["tokens"], batch["token_lengths"])
        log_characters = F.log_softmax(self.character_head(early).float(), dim=-1)
        characters = ctc_loss(log_characters, lengths, batch["characters"], batch["character_lengths"])
        return (1 - intermediate) * main + intermediate * characters, main.detach()

    @torch.inference_mode()
    def encode_waves(self, waves: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Waves [samples] at 16 kHz -> log-probabilities [batch, frames, vocabulary] and lengths [batch]."""
        features, lengths = self.log_mel(waves)
        device = self.head.weight.device
        return self(features.to(device), lengths.to(device))


def ctc_loss(log_probabilities: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """CTC loss summed over the batch and divided by its number of target tokens.

    Utterances with more tokens than frames have no path; they count as zero rather than as infinity.
    """
    loss = F.ctc_loss(
        log_probabilities.transpose(0, 1), targets, lengths, target_lengths, reduction="sum", zero_infinity=True
    )
    return loss / target_lengths.sum()
