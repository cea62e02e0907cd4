"""Choose the language model's weight and the token bonus of the beam search on held-out recordings.

    python -m recipes.tune_beam DEV_TABLE --model outputs/ctc_compact/model --limit 120

Every pair of a grid decodes the same posteriors; the pair with the lowest word error rate goes into the model's
config.json. Weight 0 is in the grid, so a language model that does not help is switched off.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asr.console.program import program


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.tune_beam", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="held-out recordings with columns id, path, text")
    parser.add_argument("--model", type=Path, help="model folder with an ngram.npz (default: the one that ships)")
    parser.add_argument("--limit", type=int, help="use only so many recordings, spread evenly")
    parser.add_argument("--beam_size", type=int, default=16)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5, 0.7, 0.85, 1.0])
    parser.add_argument("--bonuses", type=float, nargs="+", default=[1.0, 2.0, 2.8, 3.4, 4.0])
    args = parser.parse_args(argv)

    from asr.loading import shipped
    from recipes.evaluation.tune_beam import tune

    try:
        tune(args.table, args.model or Path(shipped(None)), args.weights, args.bonuses, args.beam_size, args.limit)
    except (ValueError, OSError) as error:
        print(f"recipes.tune_beam: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
