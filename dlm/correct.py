"""Correct the text of any recogniser.

    python -m dlm.correct hypotheses.txt --model outputs/dlm_compact/model           # one text a line
    python -m asr.transcribe talk.mp3 -f json | python -m dlm.correct --model outputs/dlm_compact/model --diff
    python -m dlm.correct nbest.jsonl --model outputs/dlm_compact/model -o corrected.jsonl

Reads plain lines; transcripts of asr.transcribe -f json (word times are kept); and JSON lines with "nbest" or
"hypotheses" [[text, score], ...] or "text". Without its audio a text is changed only where the model is sure.
Output has the layout of the input, on standard output unless -o names a file or, for several inputs, a folder.
Exit status: 0 all good, 1 some inputs or lines failed and the rest was done, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from asr.console.outputs import name_outputs
from asr.console.program import FAILED, UsageError, complain, emit, json_text, printable, program, program_name, reason

RED, GREEN, PLAIN = "\033[31m", "\033[32m", "\033[0m"


@dataclass
class Document:
    """One input: its texts to correct, and how it looks with other texts in their place."""

    name: str
    texts: list[str] = field(default_factory=list)
    render: Callable[[list[str]], str] = "".join
    problems: list[str] = field(default_factory=list)


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
    option("--model", required=True, help="folder or Hub id of a correction model; none ships")
    option("--diff", action="store_true", help="show what was changed in place of the result, with the gain in nats")
    option("--margin", type=float, help="nats a change must gain (default: as tuned for the model)")
    option("--batch_size", type=int, default=32, help="texts at once (default: %(default)s)")
    option("--device", default="cpu", help="cpu, cuda ... (default: %(default)s)")
    option("--threads", type=int, help="CPU threads (default: what torch chooses)")
    return parser


def run(args: argparse.Namespace) -> int:
    if args.batch_size < 1:
        raise UsageError(f"--batch_size is {args.batch_size}; it must be at least 1")
    documents, failures = _documents(args.files)
    for failure in failures:
        complain(failure)
    if not documents:
        return FAILED
    targets = _targets(documents, args)
    try:
        corrector = _load(args)
    except (OSError, ValueError, ImportError, RuntimeError, AssertionError) as error:  # last two: no such device
        raise UsageError(reason(error)) from error
    with _progress(sum(len(document.texts) for document in documents)) as advance:
        for document in documents:
            result = _corrected(document, corrector, args, advance)
            if not targets:
                emit(result)
                continue
            try:
                _write(result, targets[document.name])
            except OSError as error:
                failures.append(f"{targets[document.name]} cannot be written ({error.strerror or error})")
                complain(failures[-1])
    return FAILED if failures else 0


def _documents(names: list[str]) -> tuple[list[Document], list[str]]:
    """The inputs that can be read, each once, and a line for each problem."""
    documents, failures = [], []
    for name in dict.fromkeys(names):
        try:
            documents.append(read_document(name))
            failures += documents[-1].problems
        except (OSError, ValueError) as error:
            failures.append(f"{name}: {error.strerror if isinstance(error, OSError) else error}")
    return documents, failures


def _targets(documents: list[Document], args: argparse.Namespace) -> dict[str, Path]:
    """Where the result of each document goes; empty for standard output."""
    if args.output is None:
        return {}
    if len(args.files) == 1:
        return {documents[0].name: args.output}
    names = {d.name: Path("stdin.txt" if d.name == "-" else Path(d.name).name) for d in documents}
    targets, remarks = name_outputs(names, args.output, lambda path: path)
    for remark in remarks:
        complain(remark)
    return targets


def _load(args: argparse.Namespace):
    import torch

    from dlm.corrector import Corrector

    if args.threads:
        torch.set_num_threads(args.threads)
    options = {} if args.margin is None else {"margin": args.margin}
    return Corrector.from_pretrained(args.model, args.device, **options)


def _corrected(document: Document, corrector, args: argparse.Namespace, advance: Callable[[int], None]) -> str:
    corrections = []
    for first in range(0, len(document.texts), 8 * args.batch_size):
        stretch = document.texts[first : first + 8 * args.batch_size]
        corrections += corrector.correct(stretch, args.batch_size)
        advance(len(stretch))
    if args.diff:
        coloured = args.output is None and sys.stdout.isatty()
        return "".join(difference(c.hypothesis, c.text, c.gain, coloured) + "\n" for c in corrections)
    return document.render([c.text for c in corrections])


def _write(result: str, target: Path) -> None:
    from asr.audio.io import atomic_path

    with atomic_path(target) as partial:
        partial.write_text(result, encoding="utf-8")


# -- layouts -----------------------------------------------------------------------------------------------


def read_document(name: str) -> Document:
    """Read an input and find out its layout.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8 text.
    """
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if not content.lstrip().startswith("{"):
        # Lines end at newlines only: texts may hold other separators.
        lines = content.replace("\r\n", "\n").removesuffix("\n").split("\n") if content else []
        return Document(name, lines, lambda texts: "".join(f"{text}\n" for text in texts))
    try:
        return _json_document(name, [json.loads(content)], indent=1 if content.count("\n") > 1 else None)
    except json.JSONDecodeError:  # no single object: one a line
        return _json_lines(name, content.split("\n"))


def _json_lines(name: str, lines: list[str]) -> Document:
    objects, problems = [], []
    for number, line in enumerate(lines, start=1):
        try:
            objects += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            problems.append(f"{name}: line {number} is not JSON ({error.msg})")
    document = _json_document(name, objects)
    document.problems = problems + document.problems
    return document


def _json_document(name: str, objects: list[dict], indent: int | None = None) -> Document:
    """Transcripts, n-best lists and texts, one object after the other."""
    document, usable = Document(name), []
    for value in objects:
        found = _texts(value)
        if found is None:
            shown = json.dumps(value)[:60]
            document.problems.append(f'{name}: has neither "segments", "nbest", "hypotheses" nor "text": {shown}')
            continue
        usable.append((value, len(found)))
        document.texts += found

    def render(texts: list[str]) -> str:
        rest, lines = iter(texts), []
        for value, count in usable:
            lines.append(json_text(_with_texts(value, [next(rest) for _ in range(count)]), indent))
        return "".join(lines)

    document.render = render
    return document


def _texts(value: object) -> list[str] | None:
    """What an object says: a text for each segment, or one; None where nothing is found."""
    if not isinstance(value, dict):
        return None
    try:
        if "segments" in value:
            return [str(segment["text"]) for segment in value["segments"]]
        for key in ("nbest", "hypotheses"):
            if key in value:
                best = value[key][0] if value[key] else ""
                return [str(best if isinstance(best, str) else best[0])]
    except (TypeError, KeyError, IndexError):
        return None
    return [str(value["text"])] if "text" in value else None


def _with_texts(value: dict, texts: list[str]) -> dict:
    """The object with corrected texts; word times follow the words (`asr.output.transcript.Segment.with_text`)."""
    if "segments" not in value:
        return {**value, "text": texts[0]}
    from asr.output.transcript import Segment, Transcript, Word

    segments = []
    for row, text in zip(value["segments"], texts, strict=True):
        words = [Word(**word) for word in row.get("words", [])]
        times = float(row.get("start", 0.0)), float(row.get("end", 0.0))
        segment = Segment(*times, row["text"], words, row.get("score"), row.get("nbest", []))
        segments.append(segment if text == row["text"] else segment.with_text(text))
    return {**value, **Transcript(segments, value.get("duration", 0.0)).as_dict()}


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
    return " ".join(parts) + (f"  (gain {gain:.1f} nats)" if before != after else "")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Texts done, shown on a terminal when the work is long."""
    from tqdm import tqdm

    with tqdm(total=total, unit="text", delay=2, disable=not sys.stderr.isatty(), file=sys.stderr) as bar:
        yield bar.update


if __name__ == "__main__":
    sys.exit(main())
