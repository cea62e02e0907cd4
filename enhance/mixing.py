"""Noisy and clean pairs from recordings of speech and of noise.

    mixture = early and late room sound of the speech + noise at a drawn signal-to-noise ratio
    target  = direct sound and the first 100 ms of the room

The noise is recorded or synthetic (`enhance.noises`), the room simulated or measured. A share of the pairs can be
as VoiceBank-DEMAND has them: dry, at milder ratios, undamaged. Of the others some are clipped (the mixture only:
the target is what was said) and some lose part of their band (both: nothing is to be invented).

Keeping the early reflections in the target is easier to learn than full dereverberation and does no harm to
listeners (Braun & Tashev 2021, "Data augmentation and loss normalization for deep noise suppression").
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.signal

from asr.audio.augment import BandLimit, Clip, Speed, active_power, cut, mix_at_snr, random_room_response
from asr.audio.features import SAMPLING_RATE
from asr.audio.formats import is_recording
from enhance.noises import synthetic_noise

EARLY_REVERBERATION = 0.1  # seconds
PEAK = 0.99
CACHED_RECORDINGS = 16_384  # a day of speech is about 10 GB, an hour 0.1


@dataclass(frozen=True)
class MixtureConfig:
    """What is drawn for each pair.

    Attributes:
        seconds: length of a pair.
        snr_db: range of the signal-to-noise ratio over active frames.
        level_db: range of the speech level (active frames) relative to full scale.
        room_probability: share of pairs in a room.
        clean_probability: share of pairs without noise, so that clean speech passes unharmed.
        speed_probability: share of pairs whose speech is played at 0.9 or 1.1 of its speed.
        synthetic_probability: share of noises that are made instead of recorded.
        measured_room_share: of the rooms, the share that is measured, where measurements are at hand.
        clip_probability, band_limit_probability: shares of pairs that are damaged so.
        mild_probability: share of pairs as in VoiceBank-DEMAND: dry, undamaged, at ratios out of `mild_snr_db`.
    """

    seconds: float = 4.0
    snr_db: tuple[float, float] = (-5.0, 15.0)
    level_db: tuple[float, float] = (-38.0, -15.0)
    room_probability: float = 0.3
    clean_probability: float = 0.03
    speed_probability: float = 0.3
    synthetic_probability: float = 0.0
    measured_room_share: float = 0.3
    clip_probability: float = 0.0
    band_limit_probability: float = 0.0
    mild_probability: float = 0.0
    mild_snr_db: tuple[float, float] = (0.0, 17.5)

    @property
    def samples(self) -> int:
        return int(self.seconds * SAMPLING_RATE)


@dataclass
class Mixer:
    """Draws pairs from recordings; a pair depends on the generator handed in and nothing else.

    Args:
        speech, noise: audio files of any format.
        rooms: measured room responses.

    Raises:
        ValueError: one of the lists is empty.
    """

    speech: Sequence[Path]
    noise: Sequence[Path]
    config: MixtureConfig = field(default_factory=MixtureConfig)
    rooms: Sequence[Path] = ()

    def __post_init__(self):
        for kind, files in (("speech", self.speech), ("noise", self.noise)):
            if not files:
                raise ValueError(
                    f"the list of {kind} recordings is empty; give tables or folders that hold some"
                )

    def pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Noisy and clean waveform, float32 [samples] below full scale."""
        config = self.config
        mild = rng.random() < config.mild_probability
        noisy = clean = self._speech(rng)
        if not mild and rng.random() < config.room_probability:
            noisy, clean = in_room(clean, self._room(rng))
        if rng.random() >= config.clean_probability:
            ratio = rng.uniform(*(config.mild_snr_db if mild else config.snr_db))
            noisy = mix_at_snr(noisy, self._noise(rng), ratio)
        if not mild:
            noisy, clean = self._damaged(noisy, clean, rng)
        return scaled(noisy, clean, rng.uniform(*config.level_db))

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        if rng.random() < self.config.synthetic_probability:
            return synthetic_noise(self.config.samples, rng, lambda rng: draw_recording(self.speech, rng)[1])
        return cut(draw_recording(self.noise, rng)[1], self.config.samples, rng)

    def _room(self, rng: np.random.Generator) -> np.ndarray:
        """A response whose first sample is the direct path with gain 1."""
        if not self.rooms or rng.random() >= self.config.measured_room_share:
            return random_room_response(rng)
        response = draw_recording(self.rooms, rng)[1]
        response = response[np.abs(response).argmax() :]
        return response / response[0]

    def _damaged(
        self, noisy: np.ndarray, clean: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        if rng.random() < self.config.clip_probability:
            noisy = Clip()(noisy, rng)
        if rng.random() < self.config.band_limit_probability:
            noisy, clean = BandLimit()(np.stack((noisy, clean)), rng)
        return noisy, clean

    def _speech(self, rng: np.random.Generator) -> np.ndarray:
        """Utterances one after the other until the pair is filled."""
        needed = int(self.config.samples * 1.15)  # enough to be played at 1.1 of its speed
        wave = np.zeros(0, np.float32)
        while len(wave) < needed:
            wave = np.append(wave, draw_recording(self.speech, rng)[1])
        wave = cut(wave, needed, rng)
        if rng.random() < self.config.speed_probability:
            wave = Speed((0.9, 1.1))(wave, rng)
        return cut(wave, self.config.samples, rng)


def scaled(noisy: np.ndarray, clean: np.ndarray, level_db: float) -> tuple[np.ndarray, np.ndarray]:
    """Both at one gain: the clean one at a level in dB over active frames, or as near as full scale allows."""
    power = active_power(clean)
    gain = 10 ** (level_db / 20) / np.sqrt(power) if power > 0 else 1.0
    gain = min(gain, PEAK / max(np.abs(noisy).max(), np.abs(clean).max(), 1e-9))
    return (noisy * gain).astype(np.float32), (clean * gain).astype(np.float32)


def in_room(speech: np.ndarray, response: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a microphone in the room hears, and the part of it that is to be kept."""
    early = response[: int(EARLY_REVERBERATION * SAMPLING_RATE)]
    wet, kept = (scipy.signal.oaconvolve(speech, r)[: len(speech)] for r in (response, early))
    return wet.astype(np.float32), kept.astype(np.float32)


def draw_recording(files: Sequence[Path], rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    """A file and its samples; files that cannot be decoded are reported once and passed over.

    Raises:
        ValueError: a hundred files in a row could not be decoded.
    """
    for _ in range(100):
        path = files[rng.integers(len(files))]
        wave = _compact_recording(path)
        if wave is not None:
            return path, wave.astype(np.float32) / 32767
    raise ValueError(f"none of a hundred recordings could be decoded, the last was {path}")


@lru_cache(CACHED_RECORDINGS)
def _compact_recording(path: Path) -> np.ndarray | None:
    """Int16, so that hours of recordings stay in memory."""
    from asr.audio import AudioError, load

    try:
        return np.round(np.clip(load(path), -1, 1) * 32767).astype(np.int16)
    except AudioError as error:
        logging.getLogger(__name__).warning("left out: %s", error)
        return None


def list_recordings(sources: Sequence[str | Path], kind: str, split: str = "train") -> list[Path]:
    """Audio files of tables and folders, sorted within each source.

    Args:
        sources: folders, searched with everything below them, or tab-separated tables with a column `path`
            (relative to the table or the folder above it). Where a table has columns `kind` and
            `split`, only matching rows count.
        kind: "clean", "noise" or "room".

    Raises:
        FileNotFoundError: a source does not exist.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found += sorted(filter(is_recording, source.rglob("*")))
        elif source.is_file():
            found += sorted(_table_rows(source, {"kind": kind, "split": split}))
        else:
            raise FileNotFoundError(f"{source}: no such table or folder of {kind} recordings")
    return found


def _table_rows(table: Path, wanted: dict[str, str]) -> list[Path]:
    with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if rows and "path" not in rows[0]:
        raise ValueError(f"{table} has columns {', '.join(rows[0])}; it needs a tab-separated column 'path'")
    rows = [row for row in rows if all(row.get(column, value) == value for column, value in wanted.items())]
    roots = (table.parent, table.parent.parent)
    root = next((root for root in roots if rows and (root / rows[0]["path"]).exists()), table.parent)
    return [root / row["path"] for row in rows]
