"""Clean recordings of a table in noise and rooms, the same at all ratios."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.evaluation.side_by_side import spread


@dataclass
class Mixture:
    """One utterance in one condition; waves are float32 [samples] at 16 kHz."""

    text: str
    noisy: np.ndarray
    clean: np.ndarray


def chosen_recordings(table: str, count: int, limits: tuple[float, float] = (2.0, 12.0)) -> list:
    """Recordings spread over a table, of a length that one would listen to."""
    from asr.audio.io import duration
    from recipes.data.corpora import read_table

    usable = [r for r in read_table(table) if limits[0] <= (duration(r.path) or limits[0]) <= limits[1]]
    return spread(usable, count)


def mixtures(recordings: list, noises: list[Path], snr_db: float, room: str, seed: int) -> Iterator[Mixture]:
    """The recordings in one condition; the noise and the room of each are the same at all ratios."""
    from asr.audio.augment import cut, mix_at_snr, seeded
    from enhance.l3se.corruption import at_clean_level, peak_normalised, reverberate
    from enhance.mixing import draw_recording

    for number, recording in enumerate(recordings):
        clean, rng = recording.wave(), seeded(seed, number)
        noise = cut(draw_recording(noises, rng)[1], len(clean), rng)
        wet = reverberate(clean, rng) if room == "reverberant" else clean
        yield Mixture(recording.text, peak_normalised(mix_at_snr(wet, noise, snr_db)), at_clean_level(clean))


def clean_mixtures(recordings: list) -> Iterator[Mixture]:
    from enhance.l3se.corruption import at_clean_level

    for recording in recordings:
        clean = at_clean_level(recording.wave())
        yield Mixture(recording.text, clean, clean)
