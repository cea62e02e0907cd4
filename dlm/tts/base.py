"""The interface of a text-to-speech engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asr.audio.features import SAMPLING_RATE


@dataclass(frozen=True)
class Voice:
    """A voice of an engine. `family` names the program or model, `name` the voice inside it."""

    family: str
    name: str

    def __str__(self) -> str:
        return f"{self.family}:{self.name}"


@dataclass(frozen=True)
class Utterance:
    """What to say and how, each relative to the voice's own: tempo, mean pitch, frequencies of the formants."""

    text: str
    voice: Voice
    rate: float = 1.0
    pitch: float = 1.0
    formants: float = 1.0


@dataclass(frozen=True)
class Ranges:
    """Between which limits an engine still sounds like a person; None is what it cannot vary."""

    rate: tuple[float, float] = (0.8, 1.2)
    pitch: tuple[float, float] | None = None
    formants: tuple[float, float] | None = None

    def draw(self, text: str, voice: Voice, rng: np.random.Generator) -> Utterance:
        """An utterance with a drawn delivery."""
        limits = {name: getattr(self, name) for name in ("rate", "pitch", "formants")}
        drawn = {name: float(rng.uniform(*pair)) for name, pair in limits.items() if pair is not None}
        return Utterance(text, voice, **drawn)


class Engine(Protocol):
    """Anything that turns utterances into speech."""

    ranges: Ranges

    def available(self) -> bool:
        """Whether the engine can speak on this machine (programs installed, weights present)."""

    def voices(self) -> list[Voice]:
        """All voices, in a fixed order."""

    def synthesize(self, utterances: list[Utterance]) -> list[np.ndarray | None]:
        """Float32 waves [samples] at 16 kHz, in order; None where the engine could not say the text."""


def finished(wave: np.ndarray, rate: int) -> np.ndarray | None:
    """What an engine made, wave [samples] of `rate` Hz, as it is handed on; None when there is next to no sound."""
    from asr.audio.io import resample

    peak = float(np.abs(wave).max(initial=0.0))
    if len(wave) < 0.1 * rate or peak < 1e-3:
        return None
    if rate != SAMPLING_RATE:
        wave = resample(wave, rate, SAMPLING_RATE)
    return (wave * min(1.0, 0.99 / peak)).astype(np.float32)
