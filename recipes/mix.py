"""Write pairs of noisy and clean speech: fixed training sets and the fixed development mixture.

    python -m recipes.mix train data/enhance_train --speech ../data/enhance.tsv ../data/speech/train.tsv \\
                                                   --noise ../data/enhance.tsv --hours 8
    python -m recipes.mix train data/enhance_broad --mixture broad --speech ... --noise ... --rooms ... --hours 60
    python -m recipes.mix dev   data/enhance_dev   --speech ../data/enhance.tsv --noise ../data/enhance.tsv

A source is a folder of audio files or a tab-separated table with a column `path` (and `kind`, `split`).
`train` writes int16 arrays that are read through memory maps; small networks learn better from a fixed set
than from mixtures that never come back. What is drawn for a pair is in a file of conf/mixture. `dev` writes WAV
files: every clean recording once at each signal-to-noise ratio, with a table `mixture.tsv`. The same seed gives
the same files.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asr.console.program import program


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("train", "dev"):
        command = commands.add_parser(name)
        command.add_argument("out", type=Path, help="folder to write")
        command.add_argument("--speech", nargs="+", required=True, help="tables or folders of clean speech")
        command.add_argument("--noise", nargs="+", required=True, help="tables or folders of noise")
        command.add_argument("--seed", type=int, default=0)
        if name == "train":
            command.add_argument("--hours", type=float, default=8.0)
            command.add_argument("--seconds", type=float, default=4.0, help="length of a pair")
            command.add_argument("--rooms", nargs="+", default=[], help="tables or folders of room responses")
            command.add_argument("--mixture", default="default", help="name of a file of conf/mixture")
            command.add_argument("--workers", type=int, default=2)
        else:
            snrs = [-5.0, 0.0, 5.0, 10.0, 15.0]
            command.add_argument("--snr", nargs="+", type=float, default=snrs, help="ratios in dB")
    args = parser.parse_args(argv)

    from enhance.mixing import Mixer, list_recordings
    from recipes.data.pairs import write_mixtures, write_pairs

    files = [list_recordings(s, kind, args.command) for s, kind in ((args.speech, "clean"), (args.noise, "noise"))]
    if args.command == "train":
        mixture = mixture_of(args.mixture, seconds=args.seconds)
        mixer = Mixer(*files, mixture, list_recordings(args.rooms, "room"))
        write_pairs(args.out, mixer, round(args.hours * 3600 / args.seconds), args.seed, args.workers)
    else:
        write_mixtures(args.out, *files, args.snr, args.seed)
    return 0


def mixture_of(name: str, **settings):
    """The `MixtureConfig` that a file of conf/mixture describes.

    Raises:
        FileNotFoundError: there is no such file.
    """
    from omegaconf import OmegaConf

    from recipes.training.build import CONFIG_FOLDER, build

    folder = Path(CONFIG_FOLDER) / "mixture"
    if not (folder / f"{name}.yaml").exists():
        names = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise FileNotFoundError(f"no mixture called {name}; there are {names}, in {folder}")
    return build(OmegaConf.load(folder / f"{name}.yaml"), **settings)


if __name__ == "__main__":
    sys.exit(main())
