"""The interface of a text-to-speech engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Voice:
    """A voice of an engine. `family` names the program or model, `name` the voice inside it."""

    family: str
    name: str

    def __str__(self) -> str:
        return f"{self.family}:{self.name}"


@dataclass(frozen=True)
class Utterance:
    """What to say and how: rate 1 is the voice's own tempo, pitch 1 its own mean pitch."""

    text: str
    voice: Voice
    rate: float = 1.0
    pitch: float = 1.0


class Engine(Protocol):
    """Anything that turns utterances into speech."""

    def available(self) -> bool:
        """Whether the engine can speak on this machine (programs installed, weights present)."""

    def voices(self) -> list[Voice]:
        """All voices, in a fixed order."""

    def synthesize(self, utterances: list[Utterance]) -> list[np.ndarray | None]:
        """Float32 waves [samples] at 16 kHz, in order; None where the engine could not say the text."""
