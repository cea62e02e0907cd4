"""How long a run is: a number of steps or, where a machine is lent by the hour, minutes."""

from __future__ import annotations

import time

from accelerate.utils import broadcast_object_list

from recipes.training.settings import TrainerConfig


class Duration:
    """The time that a run takes; `before` is what it took until it was interrupted, in seconds."""

    def __init__(self, config: TrainerConfig):
        self.config, self.before = config, 0.0
        self.start()

    def start(self) -> None:
        self.started = time.perf_counter()

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def steps(self, step: int) -> float:
        """Steps of the whole run; where it has minutes instead, as many as fit at the pace of the first `step`."""
        if self.config.minutes is None:
            return self.config.steps
        seconds = [self.seconds()]
        broadcast_object_list(seconds)  # clocks differ, and all processes must stop at the same step
        return max(step, 1) * 60 * self.config.minutes / seconds[0]

    def __str__(self) -> str:
        return f"to {self.config.steps}" if self.config.minutes is None else f"for {self.config.minutes:g} minutes"
