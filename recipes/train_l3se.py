"""Train L3-SE: write the pairs, then run its stages one after the other.

    python -m recipes.train_l3se --speech enhance.tsv speech/train.tsv --noise enhance.tsv \\
        --dev_speech enhance.tsv speech/dev.tsv --dev_noise enhance.tsv
    python -m recipes.train_l3se encoder lm                      # these stages only
    python -m recipes.train_l3se codec:trainer.steps=20000 trainer.threads=2
    python -m recipes.train_l3se codec semantic encoder lm --wavlm --processes 8

Without names of stages all run but `semantic`, since the CTC branch of our recogniser teaches. Another backbone needs
it, and then `encoder:task.semantic=outputs/l3se_semantic/model` and the same for `lm`.
A stage is `python -m recipes.train experiment=l3se_STAGE` (l3se_STAGE_wavlm), so what was interrupted is
resumed, and what is finished is validated and left as it is. KEY=VALUE overrides reach every stage, STAGE:KEY=VALUE
one of them. `pairs` writes fixed pairs of damaged and clean speech to DATA_FOLDER/l3se_train and l3se_dev
(SPEECH_DATA names the data folder); sources are folders of audio or tables with a column path, of which the split
"train" or "dev" is read where there is such a column. Give development recordings of other speakers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from asr.console.program import program

STAGES = ("pairs", "codec", "semantic", "encoder", "lm")
SOURCES = ("speech", "noise", "dev_speech", "dev_noise")
DEV_PAIRS = 120


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.train_l3se", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("words", nargs="*", metavar="STAGE|OVERRIDE", help=f"stages ({', '.join(STAGES)}; see above), overrides")
    for source in SOURCES:
        option(f"--{source}", nargs="+", metavar="SOURCE", help=f"tables or folders of {source.replace('_', ' ')}")
    option("--hours", type=float, default=8.0, help="of training pairs (default: 8)")
    option("--seconds", type=float, default=4.0, help="length of a pair (default: 4)")
    option("--workers", type=int, default=2, help="processes that write pairs (default: 2)")
    option("--seed", type=int, default=0, help="of the pairs")
    option("--wavlm", action="store_true", help="the experiments on WavLM Large; they damage speech while training")
    option("--processes", type=int, default=1, help="processes a stage, one a GPU (default: 1)")
    args = parser.parse_intermixed_args(argv)
    args.overrides = [word for word in args.words if "=" in word]
    usual = [stage for stage in STAGES if stage != "semantic" or args.wavlm]
    args.stages = [word for word in args.words if "=" not in word] or usual
    for stage in args.stages:
        if stage not in STAGES:
            parser.error(f"{stage!r} is no stage; choose from {', '.join(STAGES)}, or give an override KEY=VALUE")
    missing = [f"--{source}" for source in SOURCES if not getattr(args, source)]
    if "pairs" in args.stages and missing and not all(_written(folder) for folder in _folders()):
        parser.error(f"to write the pairs, give {', '.join(missing)}; or name the stages to run")
    return args


def _folders() -> tuple[Path, Path]:
    """Where training and development pairs lie."""
    data = Path(os.environ.get("SPEECH_DATA", "data"))
    return data / "l3se_train", data / "l3se_dev"


def _written(folder: Path) -> bool:
    return (folder / "pairs.json").exists()


def write_all_pairs(args: argparse.Namespace) -> None:
    """The training pairs and the development pairs, unless they are there."""
    from enhance.l3se.corruption import Corrupter, CorruptionConfig
    from enhance.mixing import list_recordings
    from recipes.data.pairs import write_pairs

    train, dev = _folders()
    jobs = (
        (train, args.speech, args.noise, "train", round(args.hours * 3600 / args.seconds), {}),
        (dev, args.dev_speech, args.dev_noise, "dev", DEV_PAIRS, {"clean_probability": 0.0, "speed_probability": 0.0}),
    )
    for folder, speech, noise, split, count, options in jobs:
        if _written(folder):
            print(f"{folder} is there", file=sys.stderr)
            continue
        files = list_recordings(speech, "clean", split), list_recordings(noise, "noise", split)
        corrupter = Corrupter(*files, CorruptionConfig(seconds=args.seconds, **options))
        write_pairs(folder, corrupter, count, args.seed, args.workers)


def command(stage: str, args: argparse.Namespace) -> list[str]:
    """The ordinary training command of a stage."""
    program = [sys.executable, "-m"]
    if args.processes > 1:
        program += ["torch.distributed.run", f"--nproc_per_node={args.processes}", "-m"]
    experiment = f"experiment=l3se_{stage}{'_wavlm' if args.wavlm else ''}"
    return [*program, "recipes.train", experiment, *_overrides_of(stage, args.overrides)]


def _overrides_of(stage: str, overrides: list[str]) -> list[str]:
    """Overrides for all stages, and those for this one without its name."""
    chosen = []
    for override in overrides:
        owner, _, rest = override.partition(":")
        if owner not in STAGES:
            chosen.append(override)
        elif owner == stage:
            chosen.append(rest)
    return chosen


@program
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    for stage in args.stages:
        try:
            if stage == "pairs":
                write_all_pairs(args)
                continue
            print(f"stage {stage}", file=sys.stderr)
            status = subprocess.run(command(stage, args)).returncode
        except KeyboardInterrupt:
            print("interrupted; the same command continues", file=sys.stderr)
            return 130
        except (OSError, ValueError) as error:
            print(str(error).splitlines()[0], file=sys.stderr)
            return 1
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
