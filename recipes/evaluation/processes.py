"""A recogniser in a process of its own, with its own number of threads: its time and its memory are its own."""

from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np

from recipes.evaluation.recognisers import RATE, Choice
from recipes.evaluation.side_by_side import peak_memory, timed


class Process:
    """A system in a process of its own.

    Raises:
        ValueError: it cannot be loaded; the message says why.
    """

    def __init__(self, choice: Choice):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(choice.threads)  # read once, by the child as it starts
        self._process = context.Process(target=_serve, args=(choice, theirs), daemon=True)
        self._process.start()
        theirs.close()
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
        self.choice = choice

    def ready(self) -> None:
        """Wait until it has loaded."""
        if error := self._receive():
            self.stop()
            raise ValueError(error)

    def __call__(self, waves: list[np.ndarray]) -> tuple[list[str], float, float]:
        """The texts of waves [samples] at 16 kHz, the seconds it took and those of processor time."""
        self._pipe.send(waves)
        return self._receive()

    def stop(self) -> float:
        """End it; its peak memory in MB, NaN where the system does not say."""
        try:
            self._pipe.send(None)
            peak = self._receive()
        except (OSError, ValueError):
            peak = float("nan")
        self._process.join()
        return peak

    def _receive(self):
        try:
            return self._pipe.recv()
        except EOFError:
            raise ValueError(f"{self.choice.name}: its process ended by itself; its messages are above") from None


def _serve(choice: Choice, pipe) -> None:
    import torch

    torch.set_num_threads(choice.threads)
    try:
        system = choice.load()
        system([np.zeros(RATE, np.float32)])  # what is made on first use
    except (ValueError, OSError, RuntimeError) as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    while (waves := pipe.recv()) is not None:
        worked = time.process_time()
        texts, spent = timed(lambda: system(waves))  # noqa: B023 (called at once)
        pipe.send((texts, spent, time.process_time() - worked))
    pipe.send(peak_memory())
