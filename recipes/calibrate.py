"""Fit word confidences to how often words are right, and say how well that holds for other speakers.

    python -m recipes.calibrate DEV_TABLE --model outputs/ctc_compact/model
    python -m recipes.calibrate DEV_TABLE --decoders dllm ar speculative

Half of the speakers fit a slope and an offset (Platt 1999), the other half measure the calibration error; then all
of them fit what is written into the model's config.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asr.console.program import program


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="held-out recordings with columns id, path, speaker, text")
    parser.add_argument("--model", type=Path, help="model folder (default: the one that ships)")
    parser.add_argument("--decoders", nargs="+", default=["greedy", "beam"], help="as of asr.transcribe --decoder")
    args = parser.parse_args(argv)

    from asr.loading import shipped
    from recipes.evaluation.calibrate import calibrate_model

    try:
        calibrate_model(args.table, args.model or Path(shipped(None)), args.decoders)
    except (ValueError, OSError) as error:
        print(f"recipes.calibrate: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
