"""Benchmarks: systems side by side in one run, on this machine.

python -m recipes.benchmark                    # the list
python -m recipes.benchmark asr_peers --help
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from asr.console.program import program

FOLDER = Path(__file__).parent / "benchmarks"


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


@program
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__ + "\navailable: " + ", ".join(names()))
        return 0
    if argv[0] not in names():
        print(f"unknown benchmark {argv[0]!r}: choose from {', '.join(names())}", file=sys.stderr)
        return 2
    return import_module(f"recipes.benchmarks.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
