"""What the outputs of several inputs are called."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

LONGEST_NAME = 255  # bytes of a file name on the usual file systems


def name_outputs(
    inputs: dict[str, Path], folder: Path, output_of: Callable[[Path], Path], spare: int = 0
) -> tuple[dict[str, Path], list[str]]:
    """Where the output of each input goes, no two to one place.

    Args:
        inputs: source and its relative path, as `asr.console.inputs.expand_inputs` gives them.
        folder: of the outputs.
        output_of: the output's relative path for an input's relative path.
        spare: bytes of the name that are appended later.

    Returns:
        output path by source, and a remark for each one that could not have the name of its input.
    """
    outputs: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    remarks: list[str] = []
    for source, path in inputs.items():
        wanted = folder / output_of(path)
        output = next(o for o in (folder / output_of(p) for p in _candidates(path, spare)) if o not in owners)
        if output != wanted:
            why = f"{owners[wanted]} has the same name" if wanted in owners else "its name is too long"
            remarks.append(f"{source}: {why}; this one is written as {output}")
        owners[output] = source
        outputs[source] = output
    return outputs, remarks


def _candidates(path: Path, spare: int):
    """The path, then with its extension in the name, then numbered; each short enough for a file system."""
    room = LONGEST_NAME - spare - len(os.fsencode(path.suffix))
    yield path.with_name(_cut(path.stem, room) + path.suffix)
    yield path.with_name(_cut(path.stem, room - len(os.fsencode(path.suffix))) + path.suffix + path.suffix)
    for number in count(2):
        end = f"-{number}"
        yield path.with_name(_cut(path.stem, room - len(end)) + end + path.suffix)


def _cut(name: str, size: int) -> str:
    """The name in at most so many bytes, no character split."""
    while len(os.fsencode(name)) > size:
        name = name[:-1]
    return name
