"""The hybrid recogniser: Whisper's encoder at the utterance's own length, a CTC branch, Whisper's decoder.

Trained jointly on both (Watanabe et al. 2017, "Hybrid CTC/attention architecture"). The branch gives a draft, word
times and the guard against text that nobody spoke; the decoder writes the text.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from asr.audio.features import FRAME_HOP, SAMPLING_RATE, whisper_log_mel
from asr.hub import HubModel
from asr.hybrid.branch import BranchSizes, CTCBranch
from asr.hybrid.decoder import DecoderSizes, TextDecoder
from asr.hybrid.encoder import EncoderSizes, SpeechEncoder
from asr.hybrid.vocabulary import WrittenTokenizer
from asr.text.tokenizer import Tokenizer


class HybridModel(nn.Module, HubModel):
    """Speech encoder, CTC branch and text decoder with both vocabularies inside the checkpoint.

    Args:
        encoder, branch, decoder: fields of `EncoderSizes`, `BranchSizes` and `DecoderSizes`.
        units: JSON definition of the branch's vocabulary (`asr.text.tokenizer.Tokenizer`).
        tokenizer: JSON definition of the decoder's (`WrittenTokenizer`).
        calibration: slope and offset of word confidence by decoder (`asr.ctc.timing.calibrated`).
        beam: fields of `asr.ctc.beam.BeamOptions` tuned for the branch and its language model.
    """

    def __init__(
        self,
        encoder: dict,
        branch: dict,
        decoder: dict,
        units: str,
        tokenizer: str,
        calibration: dict[str, tuple[float, float]] | None = None,
        beam: dict[str, float] | None = None,
    ):
        super().__init__()
        sizes = EncoderSizes(**encoder)
        self.units, self.tokenizer = Tokenizer(units), WrittenTokenizer(tokenizer)
        self.calibration, self.beam = calibration or {}, beam or {}
        self.encoder = SpeechEncoder(sizes)
        self.branch = CTCBranch(BranchSizes(**branch), sizes.width, sizes.heads, sizes.feed_forward, sizes.layers)
        self.decoder = TextDecoder(DecoderSizes(**decoder))
        self.decoder.tokens = self.tokenizer

    @classmethod
    def create(
        cls, encoder: EncoderSizes, branch: BranchSizes, decoder: DecoderSizes, units: Tokenizer, text: WrittenTokenizer
    ) -> HybridModel:
        """A model with fresh weights."""
        parts = [dataclasses.asdict(sizes) for sizes in (encoder, branch, decoder)]
        return cls(*parts, units.definition, text.definition)

    @property
    def hop_seconds(self) -> float:
        """Seconds to a frame of the CTC branch."""
        return 2 * self.branch.sizes.stride * FRAME_HOP / SAMPLING_RATE

    def features(self, waves: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Waves [samples] at 16 kHz -> padded log-mel [batch, frames, mels] and lengths [batch]."""
        features = [whisper_log_mel(wave, self.encoder.sizes.mels) for wave in waves]
        return nn.utils.rnn.pad_sequence(features, batch_first=True), torch.tensor([len(f) for f in features])

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-mel and lengths -> encoder output, its lengths, CTC log-probabilities, their lengths."""
        states, frames = self.encoder(features, lengths)
        log_probabilities, steps = self.branch(states, frames)
        return states[-1], frames, log_probabilities, steps
