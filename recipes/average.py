"""Average a model with the one it was trained on from: what it gained, without all of what it gave up.

    python -m recipes.average outputs/adaptcrn_broad/model enhance/weights/adaptcrn_compact averaged --share 0.75

Weights of a model and of its fine-tuned self lie in one valley (Wortsman et al. 2022, arXiv 2109.01903): between them
one measure often keeps most of its gain where another has lost little. Evaluate a few shares.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from asr.console.program import program

WEIGHTS = "model.safetensors"


def averaged(model: str | Path, before: str | Path, share: float) -> dict:
    """The weights of a folder times `share`, and of another the rest; half precision where they are stored so.

    Raises:
        ValueError: a share outside [0, 1], 8-bit weights, or models that are not alike.
        FileNotFoundError: a folder without weights.
    """
    from safetensors.torch import load_file

    from asr import eight_bits

    if not 0 <= share <= 1:
        raise ValueError(f"--share is {share}; it is between 0 (the one before) and 1 (the model itself)")
    states = []
    for folder in map(Path, (model, before)):
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder} has no {WEIGHTS}: name the folder of a model")
        if eight_bits.is_stored(folder / WEIGHTS):
            raise ValueError(f"{folder} holds 8-bit weights: average the models of the runs, and store in 8 bits after")
        states.append(load_file(folder / WEIGHTS))
    first, second = states
    if {k: v.shape for k, v in first.items()} != {k: v.shape for k, v in second.items()}:
        raise ValueError(f"{model} and {before} are not alike: one has to be trained on from the other")
    return {
        name: (share * value.double() + (1 - share) * second[name].double()).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.average", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("before", help="folder of the model that its training started from")
    parser.add_argument("out", help="folder of the average; configuration and card are the model's")
    parser.add_argument("--share", type=float, default=0.5, help="of the model's own weights (default: %(default)s)")
    args = parser.parse_args(argv)
    from safetensors.torch import save_file

    from asr.audio.io import atomic_path

    try:
        weights = averaged(args.model, args.before, args.share)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    with atomic_path(Path(args.out) / WEIGHTS) as partial:  # first: a folder is a model by its configuration
        save_file(weights, partial, {"format": "pt"})
    shutil.copytree(args.model, args.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns(WEIGHTS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
