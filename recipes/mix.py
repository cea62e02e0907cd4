"""Write pairs of noisy and clean speech: fixed training sets and the fixed development mixture.

    python -m recipes.mix train data/enhance_train --speech ../data/enhance.tsv ../data/speech/train.tsv \\
                                                   --noise ../data/enhance.tsv --hours 8
    python -m recipes.mix dev   data/enhance_dev   --speech ../data/enhance.tsv --noise ../data/enhance.tsv

A source is a folder of audio files or a tab-separated table with a column `path` (and `kind`, `split`).
`train` writes int16 arrays that are read through memory maps; small networks learn better from a fixed set
than from mixtures that never come back. `dev` writes WAV files: every clean recording once at each
signal-to-noise ratio, with a table `mixture.tsv`. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import sys
from pathlib import Path

COLUMNS = ("id", "snr_db", "speech", "noise")
DEV_LEVEL_DB = -26.0  # of the speech, over active frames


# -- fixed training sets -----------------------------------------------------------------------------------


class PairStore:
    """Read access to a training set.

    Raises:
        FileNotFoundError: the folder holds no finished set.
    """

    def __init__(self, folder: str | Path):
        import numpy as np

        folder = Path(folder)
        if not (folder / "pairs.json").exists():
            raise FileNotFoundError(f"no pairs in {folder}: write them with python -m recipes.mix train {folder}")
        # [pair, noisy and clean, samples]
        self.waves = np.load(folder / "pairs.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.waves)

    def pair(self, number: int):
        """Noisy and clean waveform, float32 [samples]."""
        noisy, clean = self.waves[number].astype("float32") / 32767
        return noisy, clean


def write_pairs(folder: Path, mixer, count: int, seed: int, workers: int) -> None:
    """Write `count` pairs of a mixer; pairs.json comes last and says that the set is whole."""
    import numpy as np
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.json").unlink(missing_ok=True)
    shape = (count, 2, mixer.config.samples)
    waves = np.lib.format.open_memmap(folder / "pairs.npy", "w+", np.int16, shape)
    with multiprocessing.get_context("spawn").Pool(workers, _start, (mixer, seed)) as pool:
        drawn = pool.imap(_pair, range(count), chunksize=16)
        for number, pair in enumerate(tqdm(drawn, total=count, unit="pair", file=sys.stderr)):
            waves[number] = pair
    waves.flush()
    summary = {"pairs": count, "seconds": mixer.config.seconds, "seed": seed, "mixture": vars(mixer.config)}
    (folder / "pairs.json").write_text(json.dumps(summary, indent=1) + "\n")


def _start(mixer, seed: int) -> None:
    global _mixer, _seed
    _mixer, _seed = mixer, seed


def _pair(number: int):
    import numpy as np

    from asr.audio.augment import seeded

    return np.round(np.stack(_mixer.pair(seeded(_seed, number))) * 32767).astype(np.int16)


# -- the development mixture -------------------------------------------------------------------------------


def write_mixtures(folder: Path, speech: list[Path], noise: list[Path], snrs: list[float], seed: int) -> None:
    """Every speech recording with a drawn stretch of a drawn noise at each signal-to-noise ratio, dry."""
    from tqdm import tqdm

    from asr.audio import load, save
    from asr.audio.augment import cut, mix_at_snr, seeded
    from enhance.mixing import draw_recording, scaled

    rows = []
    for number, path in enumerate(tqdm(speech, unit="recording", file=sys.stderr)):
        clean = load(path)
        for snr_db in snrs:
            rng = seeded(seed, number, round(snr_db * 100))
            source, recording = draw_recording(noise, rng)
            noisy = mix_at_snr(clean, cut(recording, len(clean), rng), snr_db)
            name = f"{path.stem}_{snr_db:+g}dB"
            for kind, wave in zip(("noisy", "clean"), scaled(noisy, clean, DEV_LEVEL_DB), strict=True):
                save(folder / kind / f"{name}.wav", wave)
            rows.append((name, f"{snr_db:g}", path.name, source.name))
    with open(folder / "mixture.tsv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([COLUMNS, *rows])


# -- command line ------------------------------------------------------------------------------------------


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
            command.add_argument("--workers", type=int, default=2)
        else:
            snrs = [-5.0, 0.0, 5.0, 10.0, 15.0]
            command.add_argument("--snr", nargs="+", type=float, default=snrs, help="ratios in dB")
    args = parser.parse_args(argv)

    from enhance.mixing import Mixer, MixtureConfig, list_recordings

    files = [list_recordings(s, kind, args.command) for s, kind in ((args.speech, "clean"), (args.noise, "noise"))]
    if args.command == "train":
        mixer = Mixer(*files, MixtureConfig(seconds=args.seconds))
        write_pairs(args.out, mixer, round(args.hours * 3600 / args.seconds), args.seed, args.workers)
    else:
        write_mixtures(args.out, *files, args.snr, args.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
