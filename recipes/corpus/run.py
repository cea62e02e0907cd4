"""One worker, and two ways to keep workers busy: a plain loop in this process, and Ray Data."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator

from recipes.corpus.job import Job
from recipes.corpus.parts import Plan, Results, Row
from recipes.corpus.storage import Folder
from recipes.corpus.works import Work, about

LOCAL_OBJECT_STORE = 100_000_000  # bytes; what passes through it are spans and reports


class Worker:
    """Holds the model of one process and turns the parts of a plan into files.

    A part that fails as a whole is worked on again row by row, so that a recording that the model chokes on, or that
    could not be fetched, does not take the others with it.
    """

    def __init__(self, job: Job, work: type[Work]):
        out = Folder(job.out)
        self.results = Results(out, job.format, work.columns)
        self.plan = Plan(out, spans=())
        self.work = work(job, out)
        if torch := sys.modules.get("torch"):  # a work without a model does without
            torch.set_num_threads(max(1, int(job.cpus)))
        self.failing = False  # whether nothing came of the part before

    def __call__(self, span: dict) -> dict:
        """Make the part at {start, stop} of the plan, unless it is there; returns what the driver is told of it.

        Returns:
            rows, seconds of audio, messages on errors and on damaged recordings, wall and CPU seconds of the work.
        """
        wall, cpu = time.perf_counter(), time.process_time()
        name, rows = self.plan.part(span["start"], span["stop"])
        if self.results.folder.exists(name):
            results = self.results.read(name)
        else:
            results = self._results(rows)
            self.results.write(name, results)
        return {
            "rows": len(results),
            "seconds": sum(row["seconds"] or 0.0 for row in results if not row["error"]),
            "errors": [row["error"] for row in results if row["error"]],
            "damaged": [f"{row['id']}: {row['missing']}" for row in results if row.get("missing") and not row["error"]],
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
        }

    def _results(self, rows: list[Row]) -> list[Row]:
        try:
            results, self.failing = self.work(rows), False
            return results
        except (RuntimeError, OSError):
            results, failures = [], []
        for row in rows:
            try:
                results += self.work([row])
            except (RuntimeError, OSError) as error:
                failures.append(error)
                message = str(error).partition("\n")[0]
                results.append({**about(row), "error": f"{row['id']}: {type(error).__name__}: {message}"})
        nothing = len(failures) == len(rows)
        if nothing and (self.failing or len(rows) > 1):
            raise failures[0]  # no recording is to blame: the device is gone, the disk is full
        self.failing = nothing
        return results


def run_plain(job: Job, plan: Plan, work: type[Work]) -> Iterator[dict]:
    """Reports of all parts of a plan, made one after the other in this process."""
    worker = Worker(job, work)
    for start, stop in plan.spans.tolist():
        yield worker({"start": start, "stop": stop})


def run_ray(job: Job, plan: Plan, work: type[Work]) -> Iterator[dict]:
    """Reports of all parts of a plan, made by workers of a Ray cluster, as they come.

    Ray Data starts the workers again when they or their node die and gives their parts to others; a part that was
    written but not reported is found and not made again.
    """
    ray = _import_ray()
    workers = _connect(ray, job)
    workers = min(workers, len(plan.spans))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    spans = [{"start": start, "stop": stop} for start, stop in plan.spans.tolist()]
    data = ray.data.from_items(spans, override_num_blocks=len(spans))  # a part is a task
    pool = ray.data.ActorPoolStrategy(
        min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=2
    )
    data = data.map(Worker, fn_constructor_args=[job, work], compute=pool, num_cpus=job.cpus, num_gpus=job.gpus)
    try:
        for batch in data.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            yield from batch.to_pylist()
    except ray.exceptions.ActorDiedError as error:  # a worker that could not be made; Ray has its reason as text only
        kind, _, message = str(error).rstrip().rpartition("\n")[2].partition(": ")
        if kind not in ("OSError", "ValueError", "ImportError", "FileNotFoundError"):
            raise
        raise OSError(message) from None
    finally:
        ray.shutdown()


def _import_ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent home
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would starve the workers beside other work
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of its C++ parts, to standard error
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("several workers need Ray: pip install -e '.[ray]', or workers=1") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors are raised as well
    return ray


def _start(ray, address: str, **options) -> None:
    try:
        ray.init(address, **options)
    except Exception as error:  # Ray's own are of many kinds, bare exceptions among them
        raise OSError(f"Ray cannot be started or reached at {address}: {str(error).partition(chr(10))[0]}") from None


def _connect(ray, job: Job) -> int:
    """Join or start a cluster; returns how many workers there will be."""
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    if job.address in (None, "local"):
        workers = job.workers or max(1, int((os.cpu_count() or 1) // (job.cpus or 1)))
        resources = {"num_cpus": workers * job.cpus, "object_store_memory": LOCAL_OBJECT_STORE}
        _start(ray, "local", include_dashboard=False, **resources, **quiet)
        return workers
    _start(ray, job.address, **quiet)
    if job.workers:
        return job.workers
    room = ray.cluster_resources()
    limits = [room.get(name, 0) // need for name, need in (("CPU", job.cpus), ("GPU", job.gpus)) if need]
    if not min(limits):
        raise ValueError(
            f"the cluster has {room.get('CPU', 0)} CPUs and {room.get('GPU', 0)} GPUs: too few for a worker"
        )
    return int(min(limits))
