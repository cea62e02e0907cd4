"""Hypotheses of our recogniser under difficulties (dropout left on, bands of the spectrum masked), or of any as it is.

The difficulties are how arXiv 2405.15216 (Sec. 3.1) and 2512.13576 (Sec. 4) make a recogniser's mistakes on clean
synthetic speech resemble its mistakes on recordings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from asr.audio.augment import SpecAugment, seed_torch, seeded
from asr.audio.features import SAMPLING_RATE
from asr.audio.io import resample
from asr.ctc.beam import BeamOptions, greedy, prefix_beam
from asr.ctc.encoder import ChannelDropout
from asr.ctc.model import CTCModel
from asr.loading import load_recogniser
from asr.recogniser import DecodeOptions

Nbest = list[tuple[str, float]]


@dataclass
class Difficulties:
    """What the recogniser is put through, drawn for each batch (dropout) and each utterance (masks).

    Args:
        dropout: range of the dropout probability; (0, 0) switches it off.
        masks: bands and stretches blanked, on the normalised features.
    """

    dropout: tuple[float, float] = (0.0, 0.2)
    masks: SpecAugment = field(default_factory=lambda: SpecAugment(frequency_width=16, time_masks=0))


NO_DIFFICULTIES = Difficulties((0.0, 0.0), SpecAugment(frequency_masks=0, time_masks=0))


class Hypothesiser:
    """Several checkpoints of our recogniser; each utterance is heard by one of them.

    Args:
        models: folders or Hub ids of `CTCModel`s.
        difficulties: dropout and masks.
        nbest: hypotheses of each utterance; 1 skips the beam search.
        batch_frames: frames of 10 ms in a padded batch.
        bf16: run the recogniser in bfloat16, twice as fast on a recent CPU and good enough for this use.
    """

    rate = 100  # frames in a second of what it hears

    def __init__(
        self,
        models: Sequence[str],
        difficulties: Difficulties | None = None,
        nbest: int = 4,
        batch_frames: int = 16_000,
        bf16: bool = True,
        device: str = "cpu",
    ):
        self.models = [CTCModel.from_pretrained(name).to(device).eval() for name in models]
        self.difficulties = difficulties or Difficulties()
        self.nbest, self.batch_frames, self.bf16, self.device = nbest, batch_frames, bf16, device
        self.beam = BeamOptions(beam_size=max(2, nbest), lm_weight=0.0, token_bonus=0.0, candidates=6, threshold=5.0)

    @torch.inference_mode()
    def __call__(self, features: Sequence[Tensor], seed: Sequence[int]) -> list[Nbest]:
        """N-best lists (text, log-probability) of normalised log-mel features [frames, mel]; the 1-best is greedy.

        The same features and seed give the same lists.
        """
        rng = seeded(*seed)
        seed_torch(int(rng.integers(2**31)))
        ears = rng.integers(len(self.models), size=len(features))
        masked = [self.difficulties.masks(f, rng) for f in features]
        results: list[Nbest] = [[] for _ in features]
        for number, model in enumerate(self.models):
            for batch in self._batches([i for i in range(len(features)) if ears[i] == number], features):
                probability = float(rng.uniform(*self.difficulties.dropout))
                lists = self._hear(model, [masked[i] for i in batch], probability)
                for i, nbest in zip(batch, lists, strict=True):
                    results[i] = nbest
        return results

    def _batches(self, indices: list[int], features: Sequence[Tensor]) -> list[list[int]]:
        """Indices in batches of similar length."""
        batches: list[list[int]] = []
        for i in sorted(indices, key=lambda i: len(features[i])):
            if not batches or len(features[i]) * (len(batches[-1]) + 1) > self.batch_frames:
                batches.append([])
            batches[-1].append(i)
        return batches

    def _hear(self, model: CTCModel, features: list[Tensor], probability: float) -> list[Nbest]:
        lengths = torch.tensor([len(f) for f in features], device=self.device)
        padded = nn.utils.rnn.pad_sequence(features, batch_first=True).to(self.device)
        precision = torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bf16)
        with dropout(model, probability), precision:
            log_probabilities, lengths = model(padded, lengths)
        log_probabilities, lengths = log_probabilities.float().cpu(), lengths.cpu()
        lists = []
        for i, best in enumerate(greedy(log_probabilities, lengths, model.tokenizer)):
            beam = []
            if self.nbest > 1:
                beam = prefix_beam(log_probabilities[i, : lengths[i]], model.tokenizer, self.beam)
            lists.append(_distinct(best, beam)[: self.nbest])
        return lists


class Listener:
    """Any recogniser as its user has it: it hears waves and writes its own text, with case and punctuation if it does.

    One model corrects several recognisers if it has seen the mistakes of each.

    Args:
        models: names that `asr.loading.load_recogniser` takes; each utterance is heard by one of them.
        decoder: see `asr.recogniser.DecodeOptions`.
        nbest: hypotheses of each utterance, where the decoder gives more than one.
        batch_size: utterances at once.
    """

    rate = SAMPLING_RATE

    def __init__(
        self, models: Sequence[str | None], decoder: str, nbest: int = 4, device: str = "cpu", batch_size: int = 8
    ):
        self.recognisers = [load_recogniser(name, device) for name in models]
        self.options = DecodeOptions(decoder=decoder, word_timestamps=False)
        for recogniser in self.recognisers:
            recogniser.prepare(self.options)
        self.nbest, self.batch_size = nbest, batch_size

    def __call__(self, waves: Sequence[np.ndarray], seed: Sequence[int]) -> list[Nbest]:
        """N-best lists (text, log-probability) of waves [samples] at 16 kHz, best first."""
        ears = seeded(*seed).integers(len(self.recognisers), size=len(waves))
        results: list[Nbest] = [[] for _ in waves]
        for number, recogniser in enumerate(self.recognisers):
            mine = sorted((i for i in range(len(waves)) if ears[i] == number), key=lambda i: len(waves[i]))
            for first in range(0, len(mine), self.batch_size):
                batch = mine[first : first + self.batch_size]
                heard = [resample(waves[i], SAMPLING_RATE, recogniser.sampling_rate) for i in batch]
                for i, utterance in zip(batch, recogniser.transcribe_batch(heard, self.options), strict=True):
                    rivals = utterance.nbest or [(utterance.text, utterance.score or 0.0)]
                    results[i] = [(text, round(score, 3)) for text, score in rivals[: self.nbest]]
        return results


def _distinct(best, beam: list) -> Nbest:
    """Greedy hypothesis first, then the others of the beam; scores of texts where the beam knows them."""
    scores: dict[str, float] = {}
    for hypothesis in beam:  # best first, so a text keeps its best segmentation
        scores.setdefault(hypothesis.text, round(hypothesis.score, 3))
    return [(best.text, scores.pop(best.text, round(best.score, 3))), *scores.items()]


@contextlib.contextmanager
def dropout(model: nn.Module, probability: float):
    """Dropout of the given probability in all layers inside the block; off again after it."""
    layers = [module for module in model.modules() if isinstance(module, ChannelDropout)]
    usual = [layer.probability for layer in layers]
    try:
        for layer in layers:
            layer.probability = probability
            layer.train(probability > 0)
        yield
    finally:
        for layer, before in zip(layers, usual, strict=True):
            layer.probability = before
            layer.eval()
