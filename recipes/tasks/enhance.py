"""Training an enhancer on pairs of noisy and clean speech."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asr.audio.augment import seeded
from asr.audio.features import SAMPLING_RATE, istft, stft
from enhance.loading import ARCHITECTURES, load_enhancer
from enhance.losses import COMPRESSION, enhancement_loss, si_snr
from enhance.metric_discriminator import MetricDiscriminator, check_metric, scaled_scores
from enhance.mixing import Mixer, MixtureConfig, list_recordings
from enhance.networks.bands import magnitude
from enhance.networks.enhancer import Enhancer
from enhance.opinion import BEST, Opinion
from enhance.perceptual import disturbance
from recipes.data.pairs import PairStore
from recipes.evaluation.evaluate_enhance import find_clips, paired_files, spread

JUDGED = 1  # estimates of a batch that DNSMOS hears


@dataclass
class Plan:
    """One batch: pair numbers, and what seeds the pairs that are mixed on the fly."""

    pairs: list[int]
    epoch: int


class StoredPairs:
    """A fixed set of pairs, written by `python -m recipes.mix train`; every epoch sees each pair once."""

    def __init__(self, folder: str, max_pairs: int | None = None):
        self.store = PairStore(folder)
        self.size = min(len(self.store), max_pairs or len(self.store))

    def pair(self, number: int, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return self.store.pair(number)


class MixedPairs:
    """New pairs in every epoch, mixed while training.

    Args:
        speech, noise: tables or folders of recordings (`enhance.mixing.list_recordings`).
        size: pairs an epoch.
        rooms: the same of measured room responses.
    """

    mixer_of: type[Mixer] = Mixer

    def __init__(
        self,
        speech: list[str],
        noise: list[str],
        size: int,
        mixture: MixtureConfig | None = None,
        rooms: list[str] | None = None,
    ):
        files = list_recordings(speech, "clean"), list_recordings(noise, "noise")
        options = {"config": mixture} if mixture else {}
        if rooms:
            options["rooms"] = list_recordings(rooms, "room")
        self.mixer, self.size = self.mixer_of(*files, **options), size

    def pair(self, number: int, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return self.mixer.pair(seeded(seed, epoch, number))


class FolderPairs:
    """Pairs that exist as files of the same name in two folders, as in VoiceBank-DEMAND.

    Args:
        noisy, clean: folders.
        seconds: length of the random cut of each pair; shorter pairs are filled with zeros.
    """

    def __init__(self, noisy: str, clean: str, seconds: float = 4.0):
        self.files, self.samples = paired_files(Path(noisy), Path(clean)), int(seconds * SAMPLING_RATE)
        self.size = len(self.files)

    def pair(self, number: int, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        from asr.audio import load

        waves = np.stack([load(path) for path in self.files[number]])
        waves = np.pad(waves, ((0, 0), (0, max(0, self.samples - waves.shape[1]))))
        start = seeded(seed, epoch, number).integers(0, waves.shape[1] - self.samples + 1)
        noisy, clean = waves[:, start : start + self.samples]
        return noisy, clean


@dataclass(frozen=True)
class MetricTerm:
    """A discriminator that learns a metric and pulls the enhancer towards it (`enhance.metric_discriminator`).

    Attributes:
        metric: "pesq" or "dnsmos".
        weight: of the enhancer's part in its loss.
    """

    metric: str = "pesq"
    weight: float = 0.02


class JudgedEnhancer(nn.Module):
    """The enhancer and its discriminator under one optimiser."""

    def __init__(self, enhancer: Enhancer):
        super().__init__()
        self.enhancer, self.judge = enhancer, MetricDiscriminator()

    def forward(self, spectrum: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.enhancer(spectrum)


class EnhanceTask:
    """Task for `recipes.training.engine.Trainer`.

    Args:
        model: configuration of the network (`AdaptCRNConfig`, `GTCRNConfig`).
        pairs: where the training pairs come from.
        validation: folder in a layout of `recipes.evaluation.evaluate_enhance`, as `python -m recipes.mix dev`
            writes it.
        batch: pairs a batch.
        seed: seed of the weights, the data order and the mixtures.
        validation_clips: pairs to validate on, spread evenly; all when None.
        init: model folder or hub id of the same architecture whose weights start the training.
        metric: also train towards a metric; null leaves that out.
        perceptual: weight in the loss of what PESQ's model of hearing finds disturbed (`enhance.perceptual`).
        opinion: weight in the loss of what DNSMOS misses of its best marks (`enhance.opinion`), which hears JUDGED
            estimates of each batch: it costs as much as some seven of an enhancer's.

    Raises:
        ValueError, ImportError: a metric that is not known or not installed.
    """

    def __init__(
        self,
        model: object,
        pairs: StoredPairs | MixedPairs | FolderPairs,
        validation: str,
        batch: int = 8,
        seed: int = 0,
        validation_clips: int | None = 40,
        init: str | None = None,
        metric: MetricTerm | None = None,
        perceptual: float = 0.0,
        opinion: float = 0.0,
    ):
        torch.manual_seed(seed)
        self.model, self.perceptual, self.opinion = create(model), perceptual, opinion
        self.listener = Opinion() if opinion else None
        if init:
            self.model.load_state_dict(load_enhancer(init).state_dict())
        self.metric = metric
        if metric:
            check_metric(metric.metric)
            self.model = JudgedEnhancer(self.model)
        self.pairs, self.batch, self.seed = pairs, batch, seed
        self.validation = spread(find_clips(Path(validation)), validation_clips)

    def train_batches(self, epoch: int, rank: int, world: int) -> list[Plan]:
        order = seeded(self.seed, epoch).permutation(self.pairs.size)
        batches = order[: len(order) // self.batch * self.batch].reshape(-1, self.batch)
        usable = len(batches) // world * world  # equally many on every process
        return [Plan(numbers.tolist(), epoch) for numbers in batches[rank:usable:world]]

    def load(self, plan: Plan) -> dict[str, Tensor]:
        """Waveforms `noisy` and `clean` [batch, samples]."""
        pairs = [self.pairs.pair(number, plan.epoch, self.seed) for number in plan.pairs]
        noisy, clean = (torch.from_numpy(np.stack(waves)) for waves in zip(*pairs, strict=True))
        return {"noisy": noisy, "clean": clean, "seconds": noisy.numel() / SAMPLING_RATE}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        clean = batch["clean"]
        estimate, _ = model(spectrum(batch["noisy"]))
        with torch.autocast(estimate.device.type, enabled=False):
            estimate = estimate.float()
            wave = istft(torch.view_as_complex(estimate), clean.shape[-1])
            reference = spectrum(clean)
            loss, parts = enhancement_loss(estimate, reference, wave, clean)
            if self.perceptual:
                parts["disturbance"] = disturbance(wave, clean).mean()
                loss = loss + self.perceptual * parts["disturbance"]
            if self.listener:
                opinions = self.listener.to(wave.device)(wave[:JUDGED]).mean(0)
                loss = loss + self.opinion * (BEST - opinions).mean()
                parts |= dict(zip(("signal", "background", "overall"), opinions, strict=True))
            if self.metric:
                scores = scaled_scores(self.metric.metric, wave.detach(), clean)
                magnitudes = (magnitude(s) ** COMPRESSION for s in (reference, estimate))
                own, towards = model.judge.losses(*magnitudes, scores)
                loss = loss + own + self.metric.weight * towards
                parts |= {"judge": own, "metric_loss": towards, self.metric.metric: scores.nanmean()}
        return loss, {name: float(value.detach()) for name, value in parts.items()}

    @torch.inference_mode()
    def validate(self, model: Enhancer | JudgedEnhancer) -> dict[str, float]:
        """Loss, SI-SNR and its gain over the noisy input (dB), and wide-band PESQ where `pesq` is installed."""
        from asr.audio import load
        from enhance.metrics import metric_functions

        functions, model = metric_functions(("pesq",)), enhancer_of(model)
        device, rows = next(model.parameters()).device, []
        for clip in self.validation:
            noisy, clean = (
                torch.from_numpy(load(path)).to(device)[None] for path in (clip.noisy, clip.clean)
            )
            row, enhanced = {}, model.enhance(noisy)
            row["loss"] = float(enhancement_loss(spectrum(enhanced), spectrum(clean), enhanced, clean)[0])
            row["si_snr"] = float(si_snr(enhanced, clean))
            row["si_snr_gain"] = row["si_snr"] - float(si_snr(noisy, clean))
            row |= {
                name: f(enhanced[0].cpu().numpy(), clean[0].cpu().numpy()) for name, f in functions.items()
            }
            rows.append(row)
        return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}

    def export(self, model: Enhancer | JudgedEnhancer, folder: Path) -> None:
        enhancer_of(model).save_half(folder)


def enhancer_of(model: Enhancer | JudgedEnhancer) -> Enhancer:
    return model.enhancer if isinstance(model, JudgedEnhancer) else model


def create(config: object) -> Enhancer:
    """The network that a configuration describes, with fresh weights."""
    return ARCHITECTURES[config.architecture](config)


def spectrum(wave: Tensor) -> Tensor:
    """Waveform [batch, samples] -> real spectrum [batch, frames, bins, 2]."""
    return torch.view_as_real(stft(wave))
