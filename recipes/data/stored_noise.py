"""Noise for features that were made once: powers of bands add, so a log-mel can have noise without its waveform."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from asr.audio.features import WHISPER_RANGE
from recipes.data.store import FeatureStore


@dataclass
class StoredNoise:
    """Add a stretch of a store of noise (`recipes.prepare recorded`, Whisper's features) at a drawn ratio.

    Exact but for the products of speech and noise, whose mean is zero.

    Args:
        folder: the store.
        snr_db: speech to noise, both as means over all frames, drawn evenly.
        probability: with which an utterance gets noise.
    """

    folder: str
    snr_db: tuple[float, float] = (0.0, 30.0)
    probability: float = 0.4

    @cached_property
    def store(self) -> FeatureStore:
        return FeatureStore(self.folder, "whisper")

    def __call__(self, features: Tensor, rng: np.random.Generator) -> Tensor:
        """Whisper's features [frames, mel] -> the same with noise; as they are where the draw says so."""
        if rng.random() >= self.probability:
            return features
        noise = self.store.features(int(rng.integers(len(self.store))))
        start = int(rng.integers(max(1, len(noise) - len(features) + 1)))
        noise = noise[start:].repeat(-(-len(features) // max(1, len(noise) - start)), 1)[: len(features)]
        speech, added = powers(features), powers(noise)
        gain = speech.mean() / added.mean() / 10 ** (rng.uniform(*self.snr_db) / 10)
        loudness = (speech + gain * added).log10()
        return (loudness.clamp(min=loudness.max() - WHISPER_RANGE) + 4) / 4


def powers(features: Tensor) -> Tensor:
    """Powers of the bands, from features as Whisper scales them."""
    return torch.pow(10.0, features * 4 - 4)
