"""Speech of the package hibari-tts: small neural voices whose pitch and formants can be moved.

Its network predicts, for every 12.5 ms, the spectra of a harmonic, a noise and a free branch and the pitch; a vocoder
turns them into sound. Between the two, the pitch can be scaled and the spectra stretched along the frequency axis, so
that one recorded speaker becomes many: men, women and children. Install it with `pip install hibari-tts`.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence

import numpy as np

from dlm.tts.base import Ranges, Utterance, Voice, finished


class HibariTTS:
    """Voices of hibari-tts, one in the package and those that were fetched before.

    Args:
        names: voices to use, such as "heart" or "emma"; one that is not on this machine is downloaded when it first
            speaks. Default: all that are on this machine.
        ranges: limits of tempo, pitch and formants.
    """

    def __init__(
        self,
        names: Sequence[str] | None = None,
        ranges: Ranges = Ranges(rate=(0.85, 1.25), pitch=(0.5, 1.35), formants=(0.82, 1.18)),
    ):
        self.names, self.ranges = names, ranges
        self._loaded: dict = {}

    def available(self) -> bool:
        return importlib.util.find_spec("hibari") is not None

    def voices(self) -> list[Voice]:
        """The voices asked for, or those on this machine.

        Raises:
            ValueError: hibari-tts has no voice of that name.
        """
        if not self.available():
            return []
        from hibari.voices import VOICES

        if unknown := sorted(set(self.names or ()) - set(VOICES)):
            raise ValueError(f"hibari has no voice {unknown}: choose from {sorted(VOICES)}")
        return [Voice("hibari", name) for name in self.names or filter(_on_this_machine, VOICES)]

    def synthesize(self, utterances: list[Utterance]) -> list[np.ndarray | None]:
        """Speak all utterances; see `dlm.tts.base.Engine`. The same utterance always sounds the same."""
        return [self._speak(utterance) for utterance in utterances]

    def _speak(self, utterance: Utterance) -> np.ndarray | None:
        voice = self._voice(utterance.voice.name)
        rng = np.random.default_rng(zlib.crc32(repr(utterance).encode()))
        parts = [_sentence(voice, phonemes, utterance, rng) for phonemes in voice.phonemize(utterance.text)]
        wave = np.concatenate([np.zeros(0, np.float32), *parts])
        return finished(wave, voice.sample_rate)

    def _voice(self, name: str):
        if name not in self._loaded:
            from hibari import Hibari

            self._loaded[name] = Hibari(voice=name)
        return self._loaded[name]


def _on_this_machine(name: str) -> bool:
    from hibari.voices import voice_path

    try:
        return bool(voice_path(name, download_missing=False))
    except FileNotFoundError:
        return False


def _sentence(voice, phonemes: str, utterance: Utterance, rng: np.random.Generator) -> np.ndarray:
    """One sentence as float32 [samples] at the voice's rate: network, changes, vocoder."""
    from hibari import dsp

    ids = voice.ids(phonemes)
    if len(ids) < 3:  # nothing between the two paddings
        return np.zeros(0, np.float32)
    inputs = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([utterance.rate], np.float32)}
    harmonic, rotation, noise, free, phase, pitch = (output[0] for output in voice.sess.run(None, inputs))
    if utterance.formants != 1:
        # The free branch's phases belong to the frequencies they are at, so they stay.
        harmonic, rotation, noise, free = (stretch(x, utterance.formants) for x in (harmonic, rotation, noise, free))
    return dsp.synth(harmonic, rotation, noise, free, phase, pitch * np.float32(utterance.pitch), rng)


def stretch(spectra: np.ndarray, factor: float) -> np.ndarray:
    """Spectra [bins, frames] with what was at frequency f moved to f * factor; the last bin is repeated above."""
    place = np.minimum(np.arange(len(spectra), dtype=np.float32) / np.float32(factor), len(spectra) - 1)
    below = np.minimum(place.astype(int), len(spectra) - 2)
    weight = (place - below)[:, None]
    return spectra[below] * (1 - weight) + spectra[below + 1] * weight
