"""A `LargeASR` as a recogniser: pretrained encoder, CTC branch, and its language model as text decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from asr.ctc.beam import BeamOptions
from asr.decoders import DECODERS, twin_decoder
from asr.dllm.decoder import DenoisingDecoder
from asr.hub import model_file
from asr.parts import Encoded, TextDecoder
from asr.pretrained.model import LargeASR
from asr.recogniser import DecodeOptions, SpeechRecogniser


class PretrainedEncoder:
    """The encoder of a `LargeASR`, its features included."""

    def __init__(self, model: LargeASR):
        self.model, self.sampling_rate = model, model.encoder.sampling_rate

    def __call__(self, waves: list[np.ndarray]) -> Encoded:
        device = self.model.ctc.weight.device
        inputs = {key: value.to(device) for key, value in self.model.encoder.features(waves).items()}
        return Encoded(*self.model.listen(inputs))


@dataclass
class LinearBranch:
    """The CTC branch of a `LargeASR`."""

    model: LargeASR
    hop_seconds: float | None = None

    @property
    def tokenizer(self):
        return self.model.tokenizer

    def __call__(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        return self.model.ctc_log_probabilities(encoded.hidden), encoded.lengths


def large_recogniser(name: str | Path, device: str = "cpu") -> SpeechRecogniser:
    """A recogniser around a `LargeASR` of a folder or the Hub.

    A causal language model writes ("ar", "speculative", "rescored"), every other one denoises ("dllm"). An `ngram.npz`
    over the units of the CTC branch, if it lies beside the weights, serves the beam search.
    """
    model = LargeASR.from_pretrained(name).to(device).eval()
    own = ("ar", "speculative", "rescored") if model.is_causal else ("dllm",)
    ngram = model_file(name, "ngram.npz")
    recogniser = SpeechRecogniser(
        PretrainedEncoder(model),
        LinearBranch(model),
        vocabulary=model.tokens,
        ngram=ngram,
        beam=BeamOptions() if ngram else None,
        default_decoder=own[0],
    )

    def make(kind: str, options: DecodeOptions) -> TextDecoder:
        if options.decoder_model:
            raise ValueError(f"decoder_model {options.decoder_model}: this recogniser brings its own text decoder")
        if options.hotwords:
            raise ValueError("hotwords: the language model of this recogniser cannot be told names; --decoder beam can")
        if kind not in own and not (kind == "fused" and model.is_causal):  # which has a reason of its own
            language = model.config.language_model.kind
            raise ValueError(f"decoder {kind!r}: a {language} language model has {', '.join(own)}, greedy, beam")
        beam = replace(recogniser.beam, beam_size=options.beam_size)
        if kind == "dllm":
            return DenoisingDecoder(model, model.tokenizer, options.denoising, beam, lambda: recogniser.lm)
        return twin_decoder(kind, model, model.tokenizer, beam, lambda: recogniser.lm)

    recogniser.makers = {kind: partial(make, kind) for kind in DECODERS}
    return recogniser
