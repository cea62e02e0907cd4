"""Large recognisers behind the interface of all recognisers (`asr.recogniser`)."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.ar.greedy import Decoded
from asr.ctc.beam import Hypothesis
from asr.dllm.canvas import Canvas, Draft, lay_out
from asr.dllm.loop import Denoised, denoise
from asr.pretrained.model import LargeASR
from asr.recogniser import CTCRecogniser, DecodeOptions
from asr.text.tokenizer import normalise_text
from asr.text_decoders import DenoisingDecoder, Listened

TOKENS_PER_SECOND = 15  # no one speaks faster; bounds what a looping decoder writes


class LargeDenoisingDecoder(DenoisingDecoder):
    """dLLM-ASR at its own scale: the CTC draft in the language model's tokens, denoised in a few passes.

    Raises:
        ValueError: slots without a null token, or elastic.
    """

    def __init__(self, model: LargeASR, choices: dict | None = None):
        choices = {"slots": model.tokens.null is not None, **model.decode, **(choices or {})}
        super().__init__(model, model.tokenizer, choices)
        if self.choices.elastic is not None or self.choices.prior == "beam":
            raise ValueError("elastic and prior=beam belong to the compact model; a large one has neither")
        self.model = model
        self.special = model.tokens.special(self.choices.slots)

    def drafts(self, posteriors: list[Tensor]) -> list[Draft]:
        penalty = self.choices.blank_penalty
        return [self.model.tokens.draft(frames, self.tokenizer, penalty) for frames in posteriors]

    def canvas(self, drafts: list[Draft] | None, batch: int) -> Canvas:
        if drafts is None:
            return Canvas.empty([self.choices.length] * batch, self.special.mask)
        layouts = [lay_out(draft, self.canvas_options, self.special.mask) for draft in drafts]
        return Canvas.of(layouts, pad=self.special.end)

    @torch.inference_mode()
    def __call__(self, heard: Listened, drafts: list[Draft] | None = None) -> Denoised:
        if drafts is None and self.choices.prior != "none":
            drafts = self.drafts(heard.posteriors)
        canvas = self.canvas(drafts, len(heard.posteriors)).to(heard.hidden.device)
        speech = partial(self.model.remember, heard.hidden, heard.lengths, self.choices.speech_cache)
        return denoise(self.model, speech, canvas, self.options, self.special, self.keep_trace)


@torch.inference_mode()
def generate(model: LargeASR, heard: Listened, seconds: float) -> Decoded:
    """Texts of a batch of at most so many seconds, token by token."""
    end, limit = model.tokens.end, 8 + math.ceil(TOKENS_PER_SECOND * seconds)
    tokens, sure = model.language_model.generate(model.remember(heard.hidden, heard.lengths), end, limit)
    lengths = [row.index(end) if end in row else len(row) for row in tokens.tolist()]
    rows = [row[:n] for row, n in zip(tokens.tolist(), lengths, strict=True)]
    confidences = [row[:n] for row, n in zip(sure.tolist(), lengths, strict=True)]
    passes = torch.tensor([min(n + 1, limit) for n in lengths])
    return Decoded(rows, confidences, passes, passes.clone())


class LargeRecogniser(CTCRecogniser):
    """A `LargeASR` folder or Hub id. Decoders: greedy and beam of its CTC branch, and "dllm" or "ar"."""

    hop_seconds = None

    def __init__(self, name: str | Path, device: str = "cpu"):
        self.model = LargeASR.from_pretrained(name).to(device).eval()
        self.tokenizer = self.model.tokenizer
        self.sampling_rate = self.model.encoder.sampling_rate
        self.default_decoder = "ar" if self.model.is_causal else "dllm"
        self.seconds = 0.0  # of the longest wave of the batch at hand

    @property
    def on_denoised(self) -> None:
        return None

    @on_denoised.setter
    def on_denoised(self, view: object) -> None:
        raise ValueError("the view of the canvas pass by pass reads the compact model's tokens, not those of this one")

    @torch.inference_mode()
    def listen(self, waves: list[np.ndarray]) -> Listened:
        self.seconds = max(map(len, waves)) / self.sampling_rate
        device = self.model.ctc.weight.device
        inputs = {key: value.to(device) for key, value in self.model.encoder.features(waves).items()}
        frames, lengths = self.model.listen(inputs)
        return Listened.of(frames, lengths, self.model.ctc_log_probabilities(frames))

    def hypotheses(self, heard: Listened, decoder: str, options: DecodeOptions) -> list[list[Hypothesis]]:
        if decoder in ("greedy", "beam"):
            return super().hypotheses(heard, decoder, options)
        if decoder != self.default_decoder:
            kind = self.model.config.language_model.kind
            raise ValueError(f"decoder {decoder!r}: a {kind} language model has {self.default_decoder}, greedy, beam")
        return [[self._hypothesis(*row)] for row in zip(*self._decode(heard, options), strict=True)]

    def _decode(self, heard: Listened, options: DecodeOptions) -> tuple[list[list[int]], list[list[float]]]:
        if self.model.is_causal:
            result = generate(self.model, heard, self.seconds)
        else:
            result = LargeDenoisingDecoder(self.model, options.denoising)(heard)
        return result.tokens, result.confidences

    def _hypothesis(self, tokens: list[int], confidences: list[float]) -> Hypothesis:
        """The text with CTC units in place of the language model's tokens, for word times."""
        text = self.model.tokens.decode(tokens)
        score = sum(math.log(max(c, 1e-9)) for c in confidences)
        return Hypothesis(self.tokenizer.encode(normalise_text(text)), text, score)
