"""Stage 1: the codec. Learns the layer weights, the bottleneck and the decoder on clean speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.audio.augment import seeded
from asr.audio.features import SAMPLING_RATE
from enhance.l3se.backbone import FOLDER, Backbone
from enhance.l3se.codec import WavCodec
from enhance.l3se.discriminators import Discriminators, MelLoss
from recipes.tasks.enhance import Plan
from recipes.tasks.l3se.data import Pairs, PairTask
from recipes.training.optimisation import freeze

MEL_WEIGHT, ADVERSARIAL_WEIGHT, MATCHING_WEIGHT = 15.0, 2.0, 1.0


class CodecTraining(nn.Module):
    """The codec and its discriminators under one optimiser; `batches` counts the batches of the training."""

    def __init__(self, codec: WavCodec, discriminators: Discriminators | None):
        super().__init__()
        self.codec, self.discriminators = codec, discriminators
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))


class CodecTask(PairTask):
    """Task for `recipes.training.engine.Trainer`: 15 mel + 2 adversarial + 1 feature matching + feature reconstruction.

    Args:
        backbone: pretrained; it stays as it is.
        codec: sizes, arguments of `WavCodec` beyond the backbone's.
        crop_seconds: of the clean speech of each pair.
        discriminators: arguments of `Discriminators`.
        adversarial_from: batch at which the discriminators join; null leaves them out.
        start: folder of a trained codec of the same sizes, to go on from.
        frozen: parts of the codec that stay as they are. With [aggregate, down] the tokens stay what they are, and
            with them what later stages learned, while the decoder learns on.

    Raises:
        ValueError: the codec at `start` has other sizes.
    """

    def __init__(
        self,
        backbone: Backbone,
        codec: dict,
        pairs: Pairs,
        validation: Pairs,
        batch: int = 8,
        crop_seconds: float = 2.0,
        discriminators: dict | None = None,
        adversarial_from: int | None = None,
        start: str | None = None,
        frozen: list[str] | None = None,
        seed: int = 0,
        validation_pairs: int = 40,
    ):
        super().__init__(pairs, validation, batch, seed, validation_pairs)
        torch.manual_seed(seed)
        self.backbone, self.adversarial_from = backbone.frozen(), adversarial_from
        judges = None if adversarial_from is None else Discriminators(**discriminators or {})
        own = WavCodec(widths=list(backbone.widths), hop=backbone.hop, width=backbone.width, **codec)
        if start is not None:
            own = continued(own, start)
        freeze(own, frozen)
        self.model = CodecTraining(own, judges)
        self.mel, self.crop = MelLoss(), int(crop_seconds * SAMPLING_RATE)

    def load(self, plan: Plan) -> dict[str, Tensor]:
        """Crops of clean speech, `clean` [batch, samples]."""
        waves, rng = [], seeded(self.seed, plan.epoch, *plan.pairs)
        for number in plan.pairs:
            clean = self.pairs.pair(number, plan.epoch, self.seed)[1]
            start = rng.integers(0, max(1, len(clean) - self.crop + 1))
            waves.append(torch.from_numpy(clean[start : start + self.crop]))
        clean = torch.stack(waves)
        return {"clean": clean, "seconds": clean.numel() / SAMPLING_RATE}

    def loss(self, model: CodecTraining, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        clean = batch["clean"]
        estimate, features = self._resynthesise(model.codec, clean)
        mel = self.mel.to(clean.device)(estimate, clean)
        loss = MEL_WEIGHT * mel + features
        parts = {"mel": mel, "features": features}
        if model.discriminators is not None:
            if int(model.batches) >= self.adversarial_from:
                own, adversarial, matching = model.discriminators.losses(estimate, clean)
                loss = loss + own + ADVERSARIAL_WEIGHT * adversarial + MATCHING_WEIGHT * matching
                parts |= {"discriminators": own, "adversarial": adversarial, "matching": matching}
            else:  # wrappers for many GPUs want every parameter to take part in every step
                loss = loss + 0.0 * sum(p.sum() for p in model.discriminators.parameters())
        model.batches += 1
        return loss, {name: float(value.detach()) for name, value in parts.items()}

    def _resynthesise(self, codec: WavCodec, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Clean waves once through the codec, and the loss of feature reconstruction."""
        with torch.no_grad():
            states, _ = self.backbone.to(clean.device)(clean)
        z = codec.represent(states)
        digits, _ = codec.quantise(z)
        features = F.mse_loss(codec.reconstruct(digits).float(), z.detach())
        return codec.synthesise(digits, clean.shape[1]), features

    @torch.no_grad()
    def validate(self, model: CodecTraining) -> dict[str, float]:
        """Mel loss, share of the codes of a group that are used, layer weights, and ESTOI where pystoi is installed."""
        from enhance.metrics import metric_functions

        functions = metric_functions(("estoi",))
        codec, rows, used = model.codec, [], set()
        device = codec.aggregate.logits.device
        for _, clean in self.validation_batches(device):
            estimate, features = self._resynthesise(codec, clean)
            tokens = codec.encode(codec.represent(self.backbone(clean)[0]))
            used |= {(group, code) for group in range(codec.groups) for code in tokens[..., group].flatten().tolist()}
            mel = float(self.mel.to(device)(estimate, clean))
            for heard, said in zip(estimate.cpu().numpy(), clean.cpu().numpy(), strict=True):
                scores = {name: f(heard, said) for name, f in functions.items()}
                rows.append({"mel": mel, "features": float(features), **scores})
        metrics = {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
        metrics["codes_used"] = len(used) / (codec.groups * codec.codes)
        return metrics | {f"layer_{i}": float(w) for i, w in enumerate(codec.aggregate.weights())}

    def export(self, model: CodecTraining, folder: Path) -> None:
        model.codec.save_half(folder)
        export_backbone(self.backbone, folder)


def continued(codec: WavCodec, start: str) -> WavCodec:
    trained = WavCodec.from_pretrained(start)
    if trained.arguments != codec.arguments:
        raise ValueError(f"the codec at {start} has the sizes {trained.arguments}; wanted are {codec.arguments}")
    codec.load_state_dict(trained.state_dict())
    return codec


def export_backbone(backbone: Backbone, folder: Path) -> None:
    """Once, beside the teacher that stands on it; it never changes."""
    if not (folder / FOLDER / "config.json").exists():
        backbone.save_pretrained(folder / FOLDER)
