"""Train the learned commit filter (Learn2PD, arXiv 2509.25188) of a denoiser, after the fact and in minutes.

    python -m recipes.train_filter STORE... --denoiser outputs/denoiser_compact/model \\
        --recogniser outputs/ctc_compact/model

Utterances are denoised one position at a time, the slow exact way. For each pass and open position the filter learns
whether the best token of that moment is the final one. A tenth of the utterances is held out: on these the threshold
is chosen whose errors (positions committed too early) are as rare as asked for, and compared with a fixed threshold
on confidence at the same error rate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asr.console.program import program


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.train_filter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", nargs="+", help="feature stores of training speech")
    parser.add_argument("--denoiser", type=Path, required=True, help="its folder; the filter goes into it")
    parser.add_argument("--recogniser", required=True, help="model whose encoder it listens to")
    parser.add_argument("--utterances", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--error", type=float, default=0.02, help="share of commits that may differ from the final text"
    )
    parser.add_argument(
        "--denoising", nargs="+", default=[], metavar="KEY=VALUE", help="other choices, such as threshold=0.5"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    from recipes.training.commit_filter import train

    print(" ".join(f"{key} {value:.4f}" for key, value in train(args).items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
