"""The recogniser of our own CTC model, with the text decoders that were trained on its encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.ctc.beam import BeamOptions
from asr.ctc.model import CTCModel
from asr.decoders import DECODERS, load_decoder
from asr.hub import model_file
from asr.parts import Encoded, TextDecoder
from asr.recogniser import DecodeOptions, SpeechRecogniser


@dataclass
class CompactEncoder:
    """Log-mel features and the Conformer of a `CTCModel`."""

    model: CTCModel
    sampling_rate: int = 16_000

    def __call__(self, waves: list[np.ndarray]) -> Encoded:
        features, lengths = self.model.log_mel([torch.from_numpy(wave) for wave in waves])
        device = self.model.head.weight.device
        hidden, _, lengths = self.model.encoder(features.to(device), lengths.to(device))
        return Encoded(hidden, lengths)


class CompactBranch:
    """The head of a `CTCModel`."""

    def __init__(self, model: CTCModel):
        self.model, self.tokenizer, self.hop_seconds = model, model.tokenizer, model.hop_seconds

    def __call__(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        return self.model.log_probabilities(encoded.hidden), encoded.lengths


def compact_recogniser(name: str | Path, device: str = "cpu") -> SpeechRecogniser:
    """A recogniser around the `CTCModel` of a folder or Hub id."""
    model = CTCModel.from_pretrained(name).to(device).eval()
    ngram = model_file(name, "ngram.npz")
    recogniser = SpeechRecogniser(
        CompactEncoder(model),
        CompactBranch(model),
        ngram=ngram,
        beam=BeamOptions(**model.beam) if ngram else None,
        calibration=model.calibration,
        default_decoder="beam" if ngram else "greedy",
        languages=("en",),
    )

    def make(kind: str, options: DecodeOptions) -> TextDecoder:
        beam = replace(recogniser.beam, beam_size=options.beam_size)
        hotwords = options.expected(model.tokenizer, kind)
        return load_decoder(
            kind, device, options.decoder_model, model.tokenizer, options.denoising, beam, lambda: recogniser.lm,
            hotwords,
        )  # fmt: skip

    recogniser.makers = {kind: partial(make, kind) for kind in DECODERS}
    return recogniser
