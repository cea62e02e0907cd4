"""How a run is trained, whatever is trained; the fields of `trainer` in a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from asr.console.program import UsageError

PRECISIONS = ("no", "bf16", "fp16")


@dataclass
class TrainerConfig:
    steps: int = 1000  # optimiser steps
    minutes: float | None = None  # of training, instead of steps; rates then follow the share that has passed
    accumulation: int = 1  # batches per optimiser step
    precision: str = "no"  # "no", "bf16" or "fp16", as Accelerate names them
    average: float = 0.999  # decay of the exponential moving average of the weights; 0 switches it off
    log_every: int = 20
    validate_every: int = 500
    checkpoint_every: int = 500
    seed: int = 0
    threads: int | None = None  # torch threads on a CPU
    workers: int = 0  # processes that make batches ahead; 4 to 8 keep a GPU busy
    compile: tuple[str, ...] = ()  # parts of the model to run through torch.compile, "encoder" for one; pays on GPUs
    progress: bool = True
    shard: bool = False  # split weights and optimiser states over the processes (FSDP2); without `average`

    def __post_init__(self):
        for name in ("steps", "accumulation", "log_every", "validate_every", "checkpoint_every", "threads"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= 1) and not (name == "threads" and value is None):
                raise UsageError(f"trainer.{name} is {value!r}; it must be a whole number of at least 1")
        if self.minutes is not None and not (isinstance(self.minutes, (int, float)) and self.minutes > 0):
            raise UsageError(f"trainer.minutes is {self.minutes!r}; it must be above 0, or null to train for steps")
        if not isinstance(self.workers, int) or self.workers < 0:
            raise UsageError(f"trainer.workers is {self.workers!r}; it must be a whole number, 0 for none")
        if self.precision not in PRECISIONS:
            raise UsageError(f"trainer.precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")
