"""The one training loop: CPU, one GPU, many GPUs, many nodes, through Accelerate.

A system is trained by a task (recipes/tasks): it owns the model, the data and the loss; the engine owns the
optimiser, the schedule, precision, averaging, checkpoints, logs and progress. A run is a folder:

    outputs/NAME/metrics.jsonl     one line a log step and a validation
    outputs/NAME/last.pt           everything needed to go on; written to a temporary file and renamed
    outputs/NAME/model/            save_pretrained of the averaged model, after each validation

Interrupting a run and starting the same command again continues it at the same batch with the same random
state.
"""

from __future__ import annotations

import copy
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from asr.audio.io import atomic_path
from asr.console.program import UsageError
from recipes.training.duration import Duration
from recipes.training.loading import loaded
from recipes.training.memory import keep_freed_memory
from recipes.training.optimisation import Optimisation, make_optimiser, moving_average, parameter_groups
from recipes.training.settings import TrainerConfig
from recipes.training.sharding import gathered, split, split_like, split_optimiser_state


class Task(Protocol):
    """What a system brings to the engine.

    `rates`, if a task has it, are shares of the learning rate by the beginning of a parameter's name: {"encoder": 0.1}.
    """

    model: nn.Module

    def train_batches(self, epoch: int, rank: int, world: int) -> list:
        """The plan of one epoch: cheap descriptions of batches, a function of seed and epoch only."""

    def load(self, plan: object) -> dict[str, Tensor]:
        """Make the tensors of one planned batch; random choices depend on the plan and the seed only."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss and numbers worth logging; `batch` also has "step", the number of optimiser steps so far."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on held-out data."""

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the model as its users load it."""


class LossModule(nn.Module):
    """The task's loss as a forward pass, so that wrappers for many GPUs and mixed precision see all of it."""

    def __init__(self, task: Task):
        super().__init__()
        self.model = task.model
        self._loss = task.loss

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        return self._loss(self.model, batch)


def kept_names(model: nn.Module) -> set[str]:
    """Names of weights that training changes, and of buffers. Frozen weights are what the task builds."""
    names = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    return names | {name for name, _ in model.named_buffers(remove_duplicate=False)}


class Trainer:
    """Runs a task for a number of optimiser steps, or of minutes; see the module docstring."""

    def __init__(self, task: Task, config: TrainerConfig, optimisation: Optimisation, folder: str | Path):
        if config.threads:
            torch.set_num_threads(config.threads)
        if not torch.cuda.is_available():
            keep_freed_memory()
        self.task, self.config, self.optimisation = task, config, optimisation
        self.folder = Path(folder)
        self.accelerator = Accelerator(
            mixed_precision=config.precision,
            cpu=not torch.cuda.is_available(),
            gradient_accumulation_steps=config.accumulation,
        )
        self.step, self.epoch, self.position = 0, 0, 0
        self.duration, self.steps = Duration(config), config.steps
        if config.compile:
            from torch._inductor import config as inductor

            inductor.strict_output_strides = True  # or torch 2.14 fails on views whose length differs by batch
        for name in config.compile:
            task.model.get_submodule(name).compile(dynamic=True)
        self._kept = kept_names(task.model)
        self.model, self.whole = self._prepared(LossModule(task))
        rates, decay, muon = getattr(task, "rates", {}), optimisation.weight_decay, optimisation.muon
        if muon and config.shard:
            raise ValueError("optim.muon orthogonalises whole matrices; it does not go with trainer.shard=true")
        groups = parameter_groups(self._bare(), rates, decay, muon)
        self._shares = [group.pop("share") for group in groups]
        self.optimiser = self.accelerator.prepare(make_optimiser(groups, optimisation))
        self.average = None
        if config.average:
            self.average = AveragedModel(self._bare(), multi_avg_fn=moving_average(config.average), use_buffers=True)
        self.writer = self._tensorboard()

    def _prepared(self, module: LossModule) -> tuple[nn.Module, nn.Module | None]:
        """The module as it trains and, where its weights are split, a whole copy on the main process to validate."""
        if not self.config.shard:
            return self.accelerator.prepare(module), None
        if self.config.average:
            raise ValueError("trainer.shard=true cannot average weights: add trainer.average=0")
        whole = copy.deepcopy(module.model) if self._main() else None
        # "evaluation mode" only leaves out replication over processes, which sharding stands in for.
        module = self.accelerator.prepare_model(module, evaluation_mode=True)
        return split(module, self.accelerator.device.type), whole

    # -- the loop ------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, float]:
        """Train for the configured number of steps or minutes and return the last validation metrics."""
        config = self.config
        self.folder.mkdir(parents=True, exist_ok=True)
        self._seed(config.seed)
        self.duration.start()
        if (self.folder / "last.pt").exists():
            self._load_checkpoint()
        self.steps = self.duration.steps(self.step)
        self._say(f"seed {config.seed}, {self._describe()}, from step {self.step} {self.duration}")
        bar = tqdm(
            total=config.steps if config.minutes is None else None,
            initial=self.step,
            disable=not (config.progress and self._main()),
            unit="step",
            file=sys.stderr,
            mininterval=2.0,
        )
        metrics: dict[str, float] = {}
        sums, started, seconds = {}, time.perf_counter(), 0.0
        for batch in self._batches():
            losses = self._train_step(batch)
            seconds += float(batch.get("seconds", 0.0))
            for key, value in losses.items():
                sums.setdefault(key, []).append(value)
            if not self.accelerator.sync_gradients:
                continue
            bar.update()
            if self.step % config.log_every == 0:
                elapsed = time.perf_counter() - started
                logs = {key: float(np.mean(values)) for key, values in sums.items()}
                logs |= {"rate": self.optimiser.param_groups[0]["lr"], "steps_per_second": config.log_every / elapsed}
                if seconds:
                    logs["speed"] = seconds * self.accelerator.num_processes / elapsed  # x real time
                self._log("train", logs)
                bar.set_postfix({k: f"{v:.3g}" for k, v in logs.items() if k in ("loss", "speed")})
                sums, started, seconds = {}, time.perf_counter(), 0.0
            last = self.step >= self.steps
            if last or self.step % config.validate_every == 0:
                metrics = self._validate()
                started = time.perf_counter()
            if last or self.step % config.checkpoint_every == 0:
                self._save_checkpoint()
            if last:
                break
        bar.close()
        return metrics

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """Batches from the current epoch and position onwards."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        while self.step < self.steps:
            plans = self.task.train_batches(self.epoch, rank, world)
            if not plans:
                raise ValueError(
                    "the data set gives no batch: it is empty, or every utterance is outside the length limits"
                )
            for batch in loaded(plans[self.position :], self.task.load, self.config.workers):
                self.position += 1
                yield batch
            self.epoch, self.position = self.epoch + 1, 0

    def _train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        rate = self.optimisation.learning_rate * self.optimisation.rate(self.step, self.steps)
        for group, share in zip(self.optimiser.param_groups, self._shares, strict=True):
            group["lr"] = share * rate
        device = self.accelerator.device
        batch = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}
        batch["step"] = self.step
        self.model.train()
        with self.accelerator.accumulate(self.model):
            loss, logs = self.model(batch)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.optimisation.clip)
                logs["gradient_norm"] = float(gathered(norm))
                if not math.isfinite(logs["gradient_norm"]):
                    # One bad batch must not end a run of days; it is counted in metrics.jsonl.
                    self.optimiser.zero_grad()
                    logs["skipped"] = 1.0
            self.optimiser.step()
            self.optimiser.zero_grad()
        if self.accelerator.sync_gradients:
            self.step += 1
            self.steps = self.duration.steps(self.step)
            if self.average is not None:
                self.average.update_parameters(self._bare())
        return {"loss": float(loss.detach()), **logs}

    def _validate(self) -> dict[str, float]:
        metrics = {}
        trained = self._trained_state() if self.config.shard else None
        if self._main():
            model = self.averaged() if trained is None else self._loaded_whole(trained)
            model.eval()
            metrics = self.task.validate(model)
            self._log("validation", metrics)
            self._say("step " + str(self.step) + " " + " ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
            self.task.export(model, self.folder / "model")
            if self.whole is not None:
                self.whole.cpu()  # not in the way of training
        self.accelerator.wait_for_everyone()
        return metrics

    def averaged(self) -> nn.Module:
        """The averaged model, or the model itself where averaging is off."""
        return self._bare() if self.average is None else self.average.module

    def _loaded_whole(self, trained: dict[str, Tensor]) -> nn.Module:
        self.whole.load_state_dict(trained, strict=False)
        return self.whole.to(self.accelerator.device)

    # -- state ---------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        trained, optimiser = self._trained_state(), gathered(self.optimiser.state_dict())
        # Every process has its own random state; the rest is the same in all of them.
        random_states = gather_object([(random.getstate(), np.random.get_state(), torch.get_rng_state())])
        if self._main():
            state = {
                "task": self._task_name,
                "model": trained,
                "average": None if self.average is None else self.average.state_dict(),
                "optimiser": optimiser,
                "step": self.step,
                "seconds": self.duration.seconds(),
                "epoch": self.epoch,
                "position": self.position,
                "random": random_states,
            }
            with atomic_path(self.folder / "last.pt") as partial:
                torch.save(state, partial)
        self.accelerator.wait_for_everyone()

    def _trained_state(self) -> dict[str, Tensor]:
        return gathered({name: value for name, value in self._bare().state_dict().items() if name in self._kept})

    def _load_checkpoint(self) -> None:
        state = torch.load(self.folder / "last.pt", map_location="cpu", weights_only=False)
        present = self._bare().state_dict()
        self._check_same_model(state, present)
        saved = {name: split_like(value, present.get(name)) for name, value in state["model"].items()}
        self._bare().load_state_dict(saved, strict=False)
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.optimiser.load_state_dict(split_optimiser_state(state["optimiser"], parameters))
        self.step, self.epoch, self.position = state["step"], state["epoch"], state["position"]
        self.duration.before = state.get("seconds", 0.0)
        states = state["random"]
        if len(states) != self.accelerator.num_processes:
            self._say(
                f"saved by {len(states)} processes, resumed by {self.accelerator.num_processes}: new random states"
            )
            return
        python, numpy, torch_state = states[self.accelerator.process_index]
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)

    def _check_same_model(self, state: dict, present: dict[str, Tensor]) -> None:
        """Raise UsageError where a checkpoint is of another model, or of the same trained for something else."""
        saved = state["model"]
        unlike = [name for name in saved if name not in present or saved[name].shape != present[name].shape]
        unlike += sorted((self._kept & present.keys()) - saved.keys())
        if state.get("task", self._task_name) != self._task_name:
            unlike = [f"{state['task']}, not {self._task_name},"]
        if unlike:
            raise UsageError(
                f"{self.folder}/last.pt is of another model ({unlike[0]} differs): choose another name= or delete it"
            )

    @property
    def _task_name(self) -> str:
        return type(self.task).__name__

    def _seed(self, seed: int) -> None:
        random.seed(seed + self.accelerator.process_index)
        np.random.seed((seed + self.accelerator.process_index) % 2**32)
        torch.manual_seed(seed + self.accelerator.process_index)

    # -- logs ----------------------------------------------------------------------------------------------

    def _log(self, split: str, values: dict[str, float]) -> None:
        if not self._main():
            return
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(
                json.dumps({"step": self.step, "split": split, **{k: round(v, 6) for k, v in values.items()}}) + "\n"
            )
        if self.writer:
            for key, value in values.items():
                self.writer.add_scalar(f"{split}/{key}", value, self.step)

    def _tensorboard(self):
        if not self._main():
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return SummaryWriter(self.folder / "tensorboard")

    def _describe(self) -> str:
        parameters = sum(p.numel() for p in self._bare().parameters())
        return f"{parameters:,} parameters, {self.accelerator.num_processes} x {self.accelerator.device.type}"

    def _say(self, message: str) -> None:
        if self._main():
            tqdm.write(message, file=sys.stderr)

    def _main(self) -> bool:
        return self.accelerator.is_main_process

    def _bare(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model).model
