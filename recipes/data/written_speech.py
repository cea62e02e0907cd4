"""Speech and written text for the hybrid recogniser: stores of Whisper features mixed into batches.

Targets are `written_text` twice, as units of the CTC branch and as tokens of the decoder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from asr.ar.greedy import teacher_forced
from asr.audio.augment import seeded
from asr.hybrid.model import HybridModel
from asr.text.tokenizer import written_text
from asr.text.written import is_plain
from recipes.data.alignment import IGNORED, frame_labels
from recipes.data.batching import Batch, Source
from recipes.data.speech_data import SpeechBatches, SpeechData, pad
from recipes.data.store import FeatureStore


class WrittenBatches(SpeechBatches):
    """Training batches and held-out batches for a hybrid model.

    Utterances are left out that have no text, or one too long for the decoder or for the frames of the branch.

    Args:
        data: stores and batching.
        model: whose vocabularies and frames count.
        seed: of order and masks.
        padded: every utterance is filled with silence to the longest that the encoder takes, as Whisper does.
    """

    features = "whisper"

    def __init__(self, data: SpeechData, model: HybridModel, seed: int, padded: bool = False):
        super().__init__(data, model.units, seed)
        self.text, self.padded = model.tokenizer, padded
        self.hop = 2 * model.branch.sizes.stride  # frames of 10 ms to a step of the branch
        self.frames, self.tokens = 2 * model.encoder.sizes.longest, model.decoder.most_tokens
        usable = [self._usable(store) for store in self.stores]
        self.sources = [
            Source(np.where(fits, source.seconds, -1.0), source.share)
            for source, fits in zip(self.sources, usable, strict=True)
        ]

    def _usable(self, store: FeatureStore) -> np.ndarray:
        texts = [written_text(example.text) for example in store.examples]
        if plain := sum(map(is_plain, texts)):
            remedy = "python -m recipes.prepare label writes them"
            print(f"{store.folder}: {plain} texts have neither case nor punctuation: {remedy}", file=sys.stderr)
        tokens, units = self.text.encode_batch(texts), self.tokenizer.encode_batch(texts)
        fits = [
            len(t) <= self.tokens and 0 < _steps_needed(u) <= steps(e.frames, self.hop) and e.frames <= self.frames
            for e, t, u in zip(store.examples, tokens, units, strict=True)
        ]
        if left := fits.count(False):
            why = "no text, or too long a text for its frames or the decoder"
            print(f"{store.folder}: {left} of {len(fits)} utterances left out ({why})", file=sys.stderr)
        return np.array(fits)

    def has_labels(self) -> bool:
        """Whether any store has the times of words."""
        return any(example.spans for store in self.stores for example in store.examples)

    def load(self, plan: Batch) -> dict[str, Tensor]:
        """Features, lengths, units, unit_lengths, labels of frames, inputs and wanted tokens of the decoder, padded."""
        rng = seeded(*plan.seed)
        masks = self.stage(plan.seed[1]).masks
        examples = [self.stores[source].examples[index] for source, index in plan.items]
        features = [self.stores[source].features(index) for source, index in plan.items]
        texts = [written_text(example.text) for example in examples]
        labels = [
            frame_labels(text.split(), e.spans, self.tokenizer, steps(e.frames, self.hop), self.hop)
            for text, e in zip(texts, examples, strict=True)
        ]
        units, unit_lengths = pad([self.tokenizer.encode(text) for text in texts])
        inputs, wanted = teacher_forced([self.text.encode(text) for text in texts])
        for change in filter(None, (self.data.warp, self.data.noise)):
            features = [change(f, rng) for f in features]
        heard = self._heard([self._masked(f, rng) if masks else f for f in features])
        return {
            **heard, "units": units, "unit_lengths": unit_lengths, "labels": pad(labels, IGNORED)[0],
            "inputs": inputs, "wanted": wanted, "seconds": sum(map(len, features)) / 100,
        }  # fmt: skip

    def _masked(self, features: Tensor, rng: np.random.Generator) -> Tensor:
        """Masked with the mean of all values: these features are not centred."""
        mean = features.mean()
        return self.data.spec_augment(features - mean, rng) + mean

    def _heard(self, features: list[Tensor]) -> dict[str, Tensor]:
        if self.padded:
            features = [nn.functional.pad(f, (0, 0, 0, self.frames - len(f)), value=silence(f)) for f in features]
        lengths = torch.tensor([len(f) for f in features])
        return {"features": nn.utils.rnn.pad_sequence(features, batch_first=True), "lengths": lengths}

    def held_out(self, batch: int = 8) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
        """Batches of the validation store and their texts as they stand there, by length; what the encoder can take."""
        for indices in self.held_out_indices(batch):
            indices = [i for i in indices if self.validation.examples[i].frames <= self.frames]
            if not indices:
                continue
            texts = [self.validation.examples[i].text for i in indices]
            yield self._heard([self.validation.features(i) for i in indices]), texts


def silence(features: Tensor) -> float:
    """What Whisper's log-mel has where nothing sounds behind an utterance: 8 powers of ten below its loudest value."""
    return max(float(features.max()) - 2.0, -1.5)


def steps(frames: int, hop: int) -> int:
    """Steps of the branch for frames of 10 ms."""
    return -(-frames // hop)


def _steps_needed(units: list[int]) -> int:
    return len(units) + sum(a == b for a, b in zip(units, units[1:], strict=False))
