"""What is done to the rows of a part. A work holds its model and gives one result for each row, in order.

A recording that cannot be used gives a row whose `error` says why. What fails for no fault of the recordings, because
the device is gone or the disk is full, is raised: the run stops and goes on later.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from recipes.corpus.job import Job
from recipes.corpus.parts import Row
from recipes.corpus.storage import Folder

ABOUT = {"id": "string", "path": "string", "start": "float64", "seconds": "float64", "speaker": "string"}
ERROR = {"error": "string"}
WORKS = {
    "transcribe": "recipes.corpus.recognition:Transcribe",
    "score": "recipes.corpus.recognition:Score",
    "label": "recipes.corpus.labels:Label",
    "enhance": "recipes.corpus.sound:Enhance",
    "synthesise": "recipes.corpus.sound:Synthesise",
    "pack": "recipes.corpus.pack:Pack",
}


class Work(Protocol):
    """What a class of your own needs to be a work; it must be importable on every node.

    `columns` are the results' (see `recipes.corpus.parts.Results`), `id`, `seconds` and `error` among them.
    """

    columns: dict[str, str]

    def __init__(self, job: Job, out: Folder): ...

    def __call__(self, rows: list[Row]) -> list[Row]: ...


def about(row: Row) -> Row:
    """What a result says of its row whatever becomes of it."""
    return {name: row.get(name) for name in (*ABOUT, "error")}


def work_of(job: Job) -> type[Work]:
    """The class of a job's work: one of WORKS, or of your own as module:Class.

    Raises:
        ValueError: there is no such work.
    """
    if job.work == "label" and job.teachers:
        return _imported("recipes.corpus.labels:AgreedLabel")
    if ":" in job.work:
        return _imported(job.work)
    if job.work not in WORKS:
        raise ValueError(
            f"there is no work {job.work!r}; choose one of {', '.join(WORKS)}, or module:Class of your own"
        )
    return _imported(WORKS[job.work])


def _imported(place: str) -> type[Work]:
    module, _, name = place.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{place} cannot be imported: {error}") from None


def device_named(name: str) -> str:
    """A device of torch; "auto" is a GPU where there is one."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
