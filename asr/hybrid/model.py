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
from asr.hybrid.denoiser import SlotDenoiser, SlotLayers, SlotSizes
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
        slots: fields of `SlotSizes`, of a model whose decoder also denoises (`asr.hybrid.denoiser`).
        denoising: fields of `asr.dllm.choices.DenoisingDecode` chosen on held-out data.
        writes_with: name of the decoder that is used where none is asked for.
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
        slots: dict | None = None,
        denoising: dict | None = None,
        writes_with: str = "ar",
    ):
        super().__init__()
        sizes = EncoderSizes(**encoder)
        self.units, self.tokenizer = Tokenizer(units), WrittenTokenizer(tokenizer)
        self.calibration, self.beam = calibration or {}, beam or {}
        self.encoder = SpeechEncoder(sizes)
        self.branch = CTCBranch(BranchSizes(**branch), sizes.width, sizes.heads, sizes.feed_forward, sizes.layers)
        self.decoder = TextDecoder(DecoderSizes(**decoder))
        self.decoder.tokens = self.tokenizer
        self.slots = None if slots is None else SlotLayers(SlotSizes(**slots), self.decoder.sizes)
        self.denoising, self.writes_with = denoising, writes_with

    @classmethod
    def create(
        cls, encoder: EncoderSizes, branch: BranchSizes, decoder: DecoderSizes, units: Tokenizer, text: WrittenTokenizer
    ) -> HybridModel:
        """A model with fresh weights."""
        parts = [dataclasses.asdict(sizes) for sizes in (encoder, branch, decoder)]
        return cls(*parts, units.definition, text.definition)

    def with_slots(self, sizes: SlotSizes) -> HybridModel:
        """The same model with fresh slot layers on its decoder."""
        parts = (self.encoder.sizes, self.branch.sizes, self.decoder.sizes)
        model = HybridModel(
            *map(dataclasses.asdict, parts), self.units.definition, self.tokenizer.definition, self.calibration,
            self.beam, dataclasses.asdict(sizes), self.denoising, self.writes_with,
        )  # fmt: skip
        model.load_state_dict({**model.state_dict(), **self.state_dict()})
        model.slots.start_from(model.decoder)
        return model

    @property
    def denoiser(self) -> SlotDenoiser:
        """The decoder as a denoiser.

        Raises:
            ValueError: the model has no slot layers.
        """
        if self.slots is None:
            raise ValueError("this model has no denoiser: experiment=hybrid_denoiser trains one on it")
        return SlotDenoiser(self.decoder, self.slots, self.branch.sizes.stride, self.tokenizer, self.denoising)

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
