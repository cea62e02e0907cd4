"""The speech encoder of a large recogniser: waves -> features of its own kind -> frames."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, WhisperFeatureExtractor

from asr.pretrained.config import Part
from asr.pretrained.parts import load_encoder


class SpeechEncoder(nn.Module):
    """Whisper, Parakeet, WavLM, wav2vec2, wav2vec2-BERT ... with the feature extractor that belongs to it."""

    def __init__(self, part: Part):
        super().__init__()
        self.part = part
        self.network = load_encoder(part)
        self.network.requires_grad_(part.train)

    @cached_property
    def extractor(self):
        """Made when first asked for: a model without weights has no use for it."""
        if self.part.name is None:
            return WhisperFeatureExtractor(self.network.config.num_mel_bins)
        return AutoFeatureExtractor.from_pretrained(self.part.name, revision=self.part.revision)

    @property
    def width(self) -> int:
        return self.network.config.hidden_size

    @property
    def sampling_rate(self) -> int:
        return self.extractor.sampling_rate

    def features(self, waves: list[np.ndarray]) -> dict[str, Tensor]:
        """Inputs of the encoder for waves [samples] at its sampling rate, `attention_mask` among them.

        Raises:
            ValueError: a wave is longer than the encoder hears at once.
        """
        limit, longest = getattr(self.extractor, "n_samples", None), max(map(len, waves))
        if limit and longest > limit:
            rate = self.sampling_rate
            raise ValueError(
                f"a recording of {longest / rate:.1f} s: this encoder hears {limit / rate:.0f} s at once, cut it"
            )
        padding = "max_length" if limit else True
        inputs = self.extractor(
            waves, sampling_rate=self.sampling_rate, padding=padding, return_attention_mask=True, return_tensors="pt"
        )
        return dict(inputs)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Frames [batch, n, width] and how many are of each utterance [batch]."""
        mask = inputs["attention_mask"]
        dtype = next(self.network.parameters()).dtype
        given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        if getattr(self.network.config, "feat_extract_norm", None) == "group":  # pretrained without a mask
            del given["attention_mask"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.part.train):
            frames = self.network(**given).last_hidden_state
        # Frames per input are the same throughout a batch, up to one at the border.
        lengths = (mask.sum(1) * frames.shape[1] / mask.shape[1]).ceil().long().clamp(1, frames.shape[1])
        return frames[:, : int(lengths.max())], lengths
