"""Correct the text of any recogniser.

    python -m dlm.correct hypotheses.txt                                # case and punctuation of plain lines
    python -m dlm.correct subtitles.srt talk.json -o corrected/         # times stay
    python -m dlm.correct nbest.jsonl --model outputs/dlm_compact/model --diff     # what a model changes in words

Reads plain lines; SubRip and WebVTT subtitles; transcripts of asr.transcribe -f json and of Whisper (word times are
kept); and JSON lines with "nbest" or "hypotheses" [[text, score], ...] or "text". A writing model
(experiment=writing) restores case and punctuation and changes no word; texts that have them already pass through. A
model that corrects words (experiment=dlm_compact) changes a text only where it is sure. Output has the layout of the
input, on standard output unless -o names a file or, for several inputs, a folder.
Exit status: 0 all good, 1 some inputs or lines failed and the rest was done, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from asr.console.outputs import name_outputs
from asr.console.program import (
    FAILED,
    OutputError,
    UsageError,
    complain,
    emit,
    printable,
    program,
    program_name,
    reason,
)
from dlm.documents import Record, read_records

RED, GREEN, PLAIN = "\033[31m", "\033[32m", "\033[0m"


@program
def main(argv: list[str] | None = None) -> int:
    """Run the program with its arguments; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        return run(args)
    except UsageError as error:
        parser.error(printable(str(error)))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name("dlm.correct"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("files", nargs="*", default=["-"], help="inputs; - or nothing is standard input")
    option("-o", "--output", type=Path, help="file, or folder when there are several inputs")
    option("--model", action="append", metavar="NAME",
           help="folder or Hub id of a model; given several times they work one after the other, words first (default: "
                "writing, the one in the package)")
    option("--diff", action="store_true", help="show what was changed in place of the result, with the gain in nats")
    option("--margin", type=float, help="nats a change of words must gain (default: as tuned for the model)")
    option("--batch_size", type=int, default=32, help="texts at once (default: %(default)s)")
    option("--device", default="cpu", help="cpu, cuda ... (default: %(default)s)")
    option("--threads", type=int, help="CPU threads (default: what torch chooses)")
    return parser


def run(args: argparse.Namespace) -> int:
    if args.batch_size < 1:
        raise UsageError(f"--batch_size is {args.batch_size}; it must be at least 1")
    names = list(dict.fromkeys(args.files))
    targets = _targets(names, args)
    try:
        corrector = _load(args)
    except (OSError, ValueError, ImportError, RuntimeError, AssertionError) as error:  # last two: no such device
        raise UsageError(reason(error)) from error
    problems: list[str] = []

    def problem(line: str) -> None:
        problems.append(line)
        complain(line)

    with _progress() as advance:
        for name in names:
            try:
                with _sink(targets.get(name)) as write:
                    for shown in _corrected(read_records(name, problem), corrector, args, advance):
                        write(shown)
            except (BrokenPipeError, OutputError):
                raise
            except (OSError, ValueError) as error:
                problem(f"{name}: {error.strerror if isinstance(error, OSError) and error.strerror else error}")
    return FAILED if problems else 0


def _targets(names: list[str], args: argparse.Namespace) -> dict[str, Path]:
    """Where the result of each input goes; empty for standard output."""
    if args.output is None:
        return {}
    if len(names) == 1:
        return {names[0]: args.output}
    paths = {name: Path("stdin.txt" if name == "-" else Path(name).name) for name in names}
    targets, remarks = name_outputs(paths, args.output, lambda path: path)
    for remark in remarks:
        complain(remark)
    return targets


def _load(args: argparse.Namespace):
    import torch

    from dlm.loading import SHIPPED, Chain, load_correctors

    if args.threads:
        torch.set_num_threads(args.threads)
    return Chain(load_correctors(args.model or SHIPPED, args.device, args.margin))


@contextmanager
def _sink(target: Path | None) -> Iterator[Callable[[str], None]]:
    """Where results go: standard output, or a file that appears whole."""
    if target is None:
        yield emit
        return
    from asr.audio.io import atomic_path

    with atomic_path(target) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        yield file.write


def _corrected(
    records: Iterable[Record], corrector, args: argparse.Namespace, advance: Callable[[int], None]
) -> Iterator[str]:
    """The results of records, in order; so many are held at once as make good batches."""
    coloured = args.output is None and sys.stdout.isatty()
    records = iter(records)
    while waiting := list(islice(records, 8 * args.batch_size)):
        lines = iter(corrector.correct([r.texts[0] for r in waiting if not r.running], args.batch_size))
        for record in waiting:
            found = corrector.running(record.texts, args.batch_size, record.sure) if record.running else [next(lines)]
            advance(len(found))
            if args.diff:
                yield "".join(difference(c.hypothesis, c.text, c.gain, coloured) + "\n" for c in found)
            else:
                yield record.render([c.text for c in found])


def difference(before: str, after: str, gain: float, coloured: bool = False) -> str:
    """Word diff of a line: [-dropped-] {+new+} and the gain, as `git diff --word-diff` writes it."""
    from difflib import SequenceMatcher

    old, new, parts = before.split(), after.split(), []
    red, green, plain = (RED, GREEN, PLAIN) if coloured else ("", "", "")
    for tag, a0, a1, b0, b1 in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if tag == "equal":
            parts.append(" ".join(old[a0:a1]))
            continue
        if a1 > a0:
            parts.append(f"{red}[-{' '.join(old[a0:a1])}-]{plain}")
        if b1 > b0:
            parts.append(f"{green}{{+{' '.join(new[b0:b1])}+}}{plain}")
    return " ".join(parts) + (f"  (gain {gain:.1f} nats)" if gain else "")


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Texts done, shown on a terminal when the work is long."""
    from tqdm import tqdm

    with tqdm(unit="text", delay=2, disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        yield bar.update


if __name__ == "__main__":
    sys.exit(main())
