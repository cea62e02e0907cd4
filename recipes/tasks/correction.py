"""Training the correction model, and the language model of the same size that it has to beat."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn

from asr.audio.augment import seeded
from asr.text.tokenizer import SPECIAL
from dlm.confusions import ConfusionChannel
from dlm.decoding import greedy, score_texts
from dlm.model import DenoisingLM, DenoisingLMConfig, padded
from recipes.data.batching import Batch, Source, plan_epoch
from recipes.data.corpora import read_sentences
from recipes.data.spelling import normalised


class SynthesisedPairs:
    """Pairs written by `python -m dlm.synthesize`; each epoch hears another of an utterance's hypotheses.

    Args:
        folders: folders of pairs.
        share: of the training text, relative to the other sources.
        nbest: draw the hypothesis from the best so many.
        worst: leave out pairs whose 1-best has a character error rate above this.
        longest: leave out texts and hypotheses of more characters.
    """

    def __init__(self, folders: list[str], share: float = 1.0, nbest: int = 2, worst: float = 0.4, longest: int = 300):
        self.share, self.nbest = share, nbest
        rows = [row for folder in folders for row in read_pairs(folder)]
        kept = [row for row in rows if max(len(row[0]), len(row[1][0])) <= longest and _error_rate(*row) <= worst]
        if not kept:
            raise ValueError(f"{folders}: none of {len(rows)} pairs has a character error rate up to {worst}")
        rate = np.average([_error_rate(*row) for row in kept], weights=[max(1, len(text)) for text, _ in kept])
        print(
            f"{', '.join(folders)}: {len(kept)} pairs at {rate:.1%} character errors; "
            f"{len(rows) - len(kept)} over {worst:.0%} or too long left out",
            file=sys.stderr,
        )
        self.texts = [text for text, _ in kept]
        self._hypotheses = [hypotheses[:nbest] for _, hypotheses in kept]

    def hypothesis(self, index: int, rng: np.random.Generator) -> str:
        choices = self._hypotheses[index]
        return choices[int(rng.integers(len(choices)))]


class ConfusedText:
    """Plain text misspelt by a channel learned from pairs (`dlm.confusions`).

    Args:
        text: normalised sentences, one a line (.xz is read too).
        folders: folders of pairs that the channel is learned from.
        share: of the training text, relative to the other sources.
        rate: range of the error rate, relative to the pairs'.
        pairs: learn from so many pairs.
        longest: leave out sentences of more characters.
    """

    def __init__(
        self,
        text: str,
        folders: list[str],
        share: float = 1.0,
        rate: tuple[float, float] = (0.0, 1.5),
        pairs: int = 10_000,
        longest: int = 300,
    ):
        self.share, self.rate = share, rate
        self.texts = [s for s in normalised(read_sentences(text), text) if s and len(s) <= longest]
        rows = [row for folder in folders for row in read_pairs(folder)]
        chosen = rows[:: max(1, len(rows) // pairs)]
        self.channel = ConfusionChannel.estimate((hypotheses[0], text) for text, hypotheses in chosen)

    def hypothesis(self, index: int, rng: np.random.Generator) -> str:
        return self.channel.corrupt(self.texts[index], float(rng.uniform(*self.rate)), rng)


def read_pairs(folder: str | Path) -> list[tuple[str, list[str]]]:
    """(text, hypotheses best first) of all finished shards.

    Raises:
        FileNotFoundError: there is none.
    """
    shards = sorted(Path(folder).glob("*.jsonl"))
    if not shards:
        raise FileNotFoundError(f"no pairs in {folder}: make them with python -m dlm.synthesize out={folder}")
    rows = (json.loads(line) for shard in shards for line in shard.read_text(encoding="utf-8").splitlines())
    return [(row["text"], [text for text, _ in row["hypotheses"]]) for row in rows]


def _error_rate(text: str, hypotheses: list[str]) -> float:
    return Levenshtein.distance(text, hypotheses[0]) / max(1, len(text))


@dataclass
class CorrectionData:
    """Sources of pairs and how batches are cut.

    Args:
        sources: `SynthesisedPairs`, `ConfusedText`.
        validation: folder of held-out pairs.
        batch_tokens: target tokens in a padded batch.
        epoch_tokens: target tokens in what the engine calls an epoch.
        substitution: probability that a source token is replaced by a random one.
        validation_pairs: use only so many, spread evenly.
    """

    sources: list[SynthesisedPairs | ConfusedText]
    validation: str
    batch_tokens: int = 4000
    epoch_tokens: int = 1_000_000
    substitution: float = 0.1
    validation_pairs: int | None = None


class CorrectionTask:
    """Task for `recipes.training.engine.Trainer`: cross-entropy of the text given its hypothesis, or of the text alone.

    Args:
        model: sizes; without encoder layers it is the language model.
        data: pairs and batching; a language model sees the same texts.
        units: "characters", or a JSON file of sub-word units (`python -m recipes.prepare tokenizer`).
        seed: seed of data order, noise and initial weights.
        init: model folder whose weights start the training.
    """

    def __init__(
        self,
        model: DenoisingLMConfig,
        data: CorrectionData,
        units: str = "characters",
        seed: int = 0,
        init: str | None = None,
    ):
        torch.manual_seed(seed)
        definition = units if units == "characters" else Path(units).read_text(encoding="utf-8")
        self.model = DenoisingLM.create(model, definition)
        if init:
            self.model.load_state_dict(DenoisingLM.from_pretrained(init).state_dict())
        self.data, self.seed, self.units = data, seed, self.model.units
        total = sum(source.share for source in data.sources)
        # The planner of batches counts seconds and hours; here a second is a token.
        self.sources = [Source(self._token_counts(s.texts), s.share / total) for s in data.sources]
        pairs = read_pairs(data.validation)
        count = min(data.validation_pairs or len(pairs), len(pairs))
        self.validation = [pairs[i * len(pairs) // count] for i in range(count)]

    def _token_counts(self, texts: list[str]) -> np.ndarray:
        """About how many target tokens each text has, from its length: encoding all of them would take long."""
        sample = texts[:: max(1, len(texts) // 500)]
        ratio = sum(map(len, self.units.encode_batch(sample))) / sum(map(len, sample))
        return np.array([len(text) * ratio + 1 for text in texts])

    def train_batches(self, epoch: int, rank: int, world: int) -> list[Batch]:
        hours, limits = self.data.epoch_tokens / 3600, (0.0, float("inf"))
        return plan_epoch(self.sources, hours, self.data.batch_tokens, limits, self.seed, epoch, rank, world)

    def load(self, plan: Batch) -> dict[str, Tensor]:
        """Tokens of a planned batch; see `DenoisingLM.loss`."""
        rng, end = seeded(*plan.seed), [self.units.end_id]
        texts = [self.data.sources[source].texts[index] for source, index in plan.items]
        batch = {"target": padded([end + tokens + end for tokens in self.units.encode_batch(texts)])}
        if self.model.encoder:
            hypotheses = [self.data.sources[source].hypothesis(index, rng) for source, index in plan.items]
            rows = self.units.encode_batch(hypotheses)
            batch["source"] = padded([self._substituted(tokens, rng) + end for tokens in rows])
        return batch

    def _substituted(self, tokens: list[int], rng: np.random.Generator) -> list[int]:
        """Tokens with the configured share replaced by random ones (arXiv 2405.15216, Sec. 4)."""
        hit = rng.random(len(tokens)) < self.data.substitution
        other = rng.integers(len(SPECIAL), len(self.units), len(tokens))
        return np.where(hit, other, tokens).tolist()

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        loss, tokens = model.loss(batch)
        return loss, {"tokens": float(tokens)}

    @torch.inference_mode()
    def validate(self, model: DenoisingLM) -> dict[str, float]:
        """Perplexity of a word, and with an encoder the WER of the hypotheses and of their greedy corrections."""
        texts = [text for text, _ in self.validation]
        hypotheses = [best for _, (best, *_) in self.validation]
        words = sum(len(text.split()) + 1 for text in texts)
        metrics = {"word_perplexity": float(np.exp(-sum(score_texts(model, hypotheses, texts)) / words))}
        if model.encoder:
            corrected = [scored.text for scored in greedy(model, hypotheses)]
            metrics |= {"wer_before": jiwer.wer(texts, hypotheses), "wer": jiwer.wer(texts, corrected)}
        return metrics

    def export(self, model: DenoisingLM, folder: Path) -> None:
        model.save_half(folder)
