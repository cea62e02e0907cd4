"""What the stages share: pairs of damaged and clean speech, the frozen teachers, and results worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from enhance.l3se.backbone import FOLDER, load_backbone
from enhance.l3se.codec import WavCodec
from enhance.l3se.corruption import Corrupter, CorruptionConfig
from enhance.l3se.encoder import NIEncoder
from enhance.l3se.semantic import semantic_teacher
from recipes.tasks.enhance import EnhanceTask, MixedPairs, Plan, StoredPairs

STATISTICS_PAIRS = 64


class CorruptedPairs(MixedPairs):
    """New pairs in every epoch, damaged while training; arguments as for `MixedPairs`."""

    mixer_of = Corrupter

    def __init__(self, speech: list[str], noise: list[str], size: int, corruption: CorruptionConfig | None = None):
        super().__init__(speech, noise, size, corruption)


Pairs = StoredPairs | CorruptedPairs


class PairTask(EnhanceTask):
    """A task on pairs; order and loading of the batches are those of the enhancers.

    Args:
        pairs: for training.
        validation: pairs of other speakers and noises, of any length.
        batch: pairs a batch.
        seed: seed of weights, data order and crops.
        validation_pairs: the first so many are validated on.
    """

    def __init__(self, pairs: Pairs, validation: Pairs, batch: int, seed: int, validation_pairs: int):
        self.pairs, self.held_out, self.batch, self.seed = pairs, validation, batch, seed
        self.validation_count = min(validation_pairs, validation.size)

    def load(self, plan: Plan) -> dict[str, Tensor]:
        """Waveforms `noisy` and `clean` [batch, samples], and the `numbers` of the pairs."""
        return {**super().load(plan), "numbers": torch.tensor(plan.pairs)}

    def validation_batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Noisy and clean waves [batch, samples], held out."""
        for first in range(0, self.validation_count, self.batch):
            numbers = range(first, min(first + self.batch, self.validation_count))
            pairs = [self.held_out.pair(number, 0, self.seed) for number in numbers]
            yield tuple(torch.from_numpy(np.stack(waves)).to(device) for waves in zip(*pairs, strict=True))


class Memory:
    """Keeps what frozen models say of pairs that never change, in 16 bits, so that it is computed once."""

    def __init__(self, pairs: Pairs):
        self.kept: dict[int, dict[str, Tensor]] | None = {} if isinstance(pairs, StoredPairs) else None

    def __call__(self, numbers: Tensor, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `compute` gives, [batch, ...] each, for the pairs of these numbers."""
        keys = numbers.tolist()
        if self.kept is None or not all(key in self.kept for key in keys):
            values = compute()
            if self.kept is not None:
                for row, key in enumerate(keys):
                    self.kept[key] = {name: _small(value[row]) for name, value in values.items()}
            return values
        rows = [self.kept[key] for key in keys]
        return {name: torch.stack([_large(row[name]) for row in rows]).to(numbers.device) for name in rows[0]}


def _small(value: Tensor) -> Tensor:
    return value.detach().cpu().to(torch.float16 if value.is_floating_point() else torch.int16)


def _large(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value.long()


class Teachers:
    """The frozen backbone with the codec and, if wanted, the semantic teacher on top.

    Args:
        codec: model folder of the first stage.
        semantic: that of the second, or a hybrid recogniser whose CTC branch teaches.
        heads: which of them teach ("acoustic", "semantic").

    Raises:
        FileNotFoundError: a stage was not trained.
        ValueError: the teachers stand on different backbones.
    """

    def __init__(self, codec: str, semantic: str | None, heads: list[str]):
        self.backbone = load_backbone(Path(codec) / FOLDER).frozen()
        self.codec = WavCodec.from_pretrained(codec).requires_grad_(False)
        self.by_head: dict = {}
        if "acoustic" in heads:
            self.by_head["acoustic"] = self.codec
        if "semantic" in heads:
            backbone, self.by_head["semantic"] = semantic_teacher(semantic)
            _check_same(self.backbone, backbone, codec, semantic)

    def to(self, device: torch.device) -> Teachers:
        for module in (self.backbone, self.codec, *self.by_head.values()):
            module.to(device)
        return self

    @torch.no_grad()
    def targets(self, waves: Tensor) -> dict[str, Tensor]:
        """Representations [batch, frames, width] of waves [batch, samples] by head."""
        states, _ = self.backbone(waves)
        return {name: teacher.represent(states) for name, teacher in self.by_head.items()}

    @torch.no_grad()
    def tokens(self, waves: Tensor) -> Tensor:
        """Acoustic tokens [batch, token frames, groups] of waves."""
        return self.codec.encode(self.codec.represent(self.backbone(waves)[0]))

    def student(self, pairs: Pairs) -> NIEncoder:
        """An NI-Encoder that was not distilled yet, the statistics of its targets set from the first pairs."""
        student = NIEncoder.from_teachers(self.backbone, self.by_head)
        clean = [pairs.pair(number, 0, 0)[1] for number in range(min(STATISTICS_PAIRS, pairs.size))]
        targets = [self.targets(torch.from_numpy(wave)[None]) for wave in clean]
        student.set_statistics({name: torch.cat([t[name] for t in targets], 1) for name in targets[0]})
        return student


def _check_same(first: torch.nn.Module, second: torch.nn.Module, codec: str, semantic: str) -> None:
    own, other = first.state_dict(), second.state_dict()
    if own.keys() != other.keys() or not all(torch.equal(own[name], other[name]) for name in own):
        raise ValueError(
            f"the teachers in {codec} and {semantic} stand on different backbones; train both with the same "
            "model.backbone"
        )
