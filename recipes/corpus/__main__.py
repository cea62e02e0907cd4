"""Transcribe, score, label, enhance, speak or pack a corpus of any size: one process, one machine or a Ray cluster.

    python -m recipes.corpus transcribe recordings/ out/                       # a plain loop in this process
    python -m recipes.corpus transcribe dev.tsv out/ workers=2                 # two processes (extra: ray)
    python -m recipes.corpus score dev.tsv s3://bucket/scores address=auto cpus=2 decoder=greedy
    python -m recipes.corpus transcribe s3://bucket/calls s3://bucket/texts address=auto gpus=0.25 device=cuda
    python -m recipes.corpus enhance cuts.jsonl.gz clean/ workers=4 format=jsonl
    python -m recipes.corpus synthesise sentences.txt.xz spoken/ workers=4
    python -m recipes.corpus label recordings/ labels/ workers=2 'teachers=[openai/whisper-base,openai/whisper-tiny.en]'
    python -m recipes.corpus pack labels/ s3://bucket/shards workers=2 part_seconds=3600   # to train from

IN is a table (.tsv with columns id, path, text ...), lhotse cuts or JSON lines (.jsonl, .jsonl.gz), Parquet, a folder
of such parts, a folder of recordings, or a text (synthesise), at any fsspec address. OUT is a folder of parts that
appear whole or not at all, one row for each recording; a recording that cannot be used has a row whose `error` says
why. The same command goes on after an interruption and skips what is done. On a cluster, IN and OUT must be reachable
from every node, and the package installed there. A work of your own is module:Class (recipes/corpus/works.py).

Exit code: 0 all good, 1 some rows have errors or are damaged, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

from asr.console.program import INTERRUPTED, complain, program, reason
from recipes.corpus.job import Job
from recipes.corpus.storage import Folder, is_remote


def run(job: Job) -> dict:
    """Do what a job says; returns the summary.

    Raises:
        ValueError, OSError: IN cannot be read, OUT is not ours, a field is out of range.
    """
    from recipes.corpus.parts import Plan, Results
    from recipes.corpus.report import Progress, summarise
    from recipes.corpus.rows import read_rows
    from recipes.corpus.run import run_plain, run_ray
    from recipes.corpus.works import work_of

    job.check()
    work, out = work_of(job), Folder(job.out)
    results = Results(out, job.format, work.columns)
    job.claim(out)
    out.clear_temporary()
    if job.retry_errors:
        results.forget_errors()
    plan = Plan.make(lambda: read_rows(job.source), results, job.part_seconds)
    progress = Progress(plan)
    if len(plan.spans):
        progress.follow((run_plain if job.is_plain else run_ray)(job, plan, work))
    plan.remove()
    return summarise(results, progress.as_dict())


def parse(argv: list[str]) -> Job:
    """Raises ValueError: an argument is missing or unknown."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    names = [arg for arg in argv if "=" not in arg]
    if len(names) != 3:
        raise ValueError(f"give a work, IN and OUT, then field=value; got {' '.join(names) or 'nothing'} (see --help)")
    work, source, out = names[0], *(n if is_remote(n) else os.path.abspath(n) for n in names[1:])
    fields = [arg for arg in argv if "=" in arg]
    try:
        given = OmegaConf.from_cli(fields)
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Job(work, source, out)), given))
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from None


@program
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or {"-h", "--help"} & set(argv):
        print(__doc__)
        print("fields" + Job.__doc__.partition("Args:")[2])
        return 0 if argv else 2
    from recipes.corpus.report import print_summary

    try:
        summary = run(parse(argv))
    except (ValueError, OSError, ImportError) as error:
        error = getattr(error, "cause", error)  # of what went wrong in a worker of Ray
        complain(f"recipes.corpus: {reason(error)}")
        return 2
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on and skips what is done")
        return INTERRUPTED
    print_summary(summary)
    return int(summary["errors"] + summary["damaged"] > 0)


def leave(code: int) -> None:
    """End the process. Where a node was lost, a thread of Ray may abort it while the interpreter shuts down."""
    if "ray" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
