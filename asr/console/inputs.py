"""Which recordings the arguments of a program name: files, folders, glob patterns and standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from asr.audio.formats import is_audio


def expand_inputs(arguments: list[str]) -> tuple[dict[str, Path], list[str]]:
    """Files behind the arguments, each with its path relative to what was named, and a line for what was not found.

    Folders are searched for recordings, in depth, hidden files and folders excepted. `@list.txt` stands for the lines
    of that file, empty ones and those after a # left out. What is named twice is taken once.
    """
    inputs: dict[str, Path] = {}
    failures: list[str] = []
    seen: set[str] = set()

    def add(source: str, relative: Path) -> None:
        place = source if source == "-" else os.path.abspath(source)
        if place not in seen:
            seen.add(place)
            inputs[source] = relative

    for argument in _listed(arguments, failures):
        if argument == "-":
            add(argument, Path("stdin"))
        elif os.path.isdir(argument):
            found = sorted(_recordings(argument, failures))
            for path in found:
                add(path, Path(os.path.relpath(path, argument)))
            if not found:
                failures.append(f"{argument}: no audio files in this folder")
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            found = sorted(path for path in glob.glob(argument, recursive=True) if os.path.isfile(path))
            for path in found:
                add(path, Path(Path(path).name))
            if not found:
                failures.append(f"{argument}: no file matches this pattern")
        else:  # a missing file is reported by the one who tries to read it
            add(argument, Path(Path(argument).name))
    return inputs, failures


def _listed(arguments: list[str], failures: list[str]) -> Iterator[str]:
    """The arguments, those that name a list replaced by its lines; a file whose own name begins with @ is a file."""
    for argument in arguments:
        if not argument.startswith("@") or os.path.lexists(argument):
            yield argument
            continue
        try:
            lines = Path(argument[1:]).read_bytes().split(b"\n")
        except OSError as error:
            failures.append(f"{argument[1:]}: this list cannot be read ({error.strerror})")
            continue
        names = (os.fsdecode(line.strip()) for line in lines)
        yield from (name for name in names if name and (name[0] != "#" or os.path.lexists(name)))


def _recordings(folder: str, failures: list[str]) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        failures.append(f"{error.filename}: cannot be searched ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = os.path.join(place, name)
            if not name.startswith(".") and is_audio(name) and os.path.isfile(path):
                yield path
