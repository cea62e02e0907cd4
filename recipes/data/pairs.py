"""Pairs of noisy and clean speech: fixed training sets and the development mixture (`python -m recipes.mix`)."""

from __future__ import annotations

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
