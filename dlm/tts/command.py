"""Speech from command-line synthesisers: espeak-ng, flite and festival, as the distribution packages them.

They run hundreds of times faster than real time, need no weights and offer thousands of accent, variant,
rate and pitch combinations. Their speech is no substitute for recordings; mixed with them it teaches
spelling and word order (Denoising LM, Sec. 3; see the model cards for what it brought here).
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile

from dlm.tts.base import Ranges, Utterance, Voice, finished

ESPEAK_ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)
# Variants that sound like a person; the robots, whispers and jokes among espeak-ng's variants are left out.
ESPEAK_VARIANTS = (
    "Adam",
    "Alex",
    "Alicia",
    "Andrea",
    "Andy",
    "Annie",
    "Antonio",
    "Belinda",
    "Benjamin",
    "Boris",
    "Caleb",
    "David",
    "Denis",
    "Diogo",
    "Ed",
    "Gene",
    "Henrique",
    "Hugo",
    "Iven",
    "Jacky",
    "John",
    "Lee",
    "Linda",
    "Marcelo",
    "Marco",
    "Mario",
    "Max",
    "Michael",
    "Michel",
    "Miguel",
    "Mike",
    "Nguyen",
    "Pablo",
    "Paul",
    "Pedro",
    "Quincy",
    "Rob",
    "Robert",
    "Steph",
    "Steph2",
    "Steph3",
    "Zac",
    "anika",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "klatt",
    "klatt2",
    "klatt3",
    "klatt4",
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "norbert",
    "sandro",
    "shelby",
    "travis",
    "victor",
)
FLITE_VOICES = ("slt", "rms", "awb", "kal16")  # three recorded speakers (CMU Arctic) and a diphone voice
FLITE_MEAN_PITCH = {"slt": 180, "rms": 95, "awb": 120, "kal16": 105}  # Hz, set by the pitch factor
TIMEOUT = 60  # seconds for one sentence; the programs need milliseconds


class CommandTTS:
    """espeak-ng, flite and festival through their command lines, several sentences at a time.

    Args:
        families: which programs to use, of "espeak", "flite", "festival"; those not installed are skipped.
        workers: sentences spoken in parallel (each is its own process).
        ranges: limits of tempo and pitch.
    """

    def __init__(
        self,
        families: Sequence[str] = ("espeak", "flite"),
        workers: int = 2,
        ranges: Ranges = Ranges(pitch=(0.75, 1.3)),
    ):
        unknown = set(families) - set(PROGRAMS)
        if unknown:
            raise ValueError(f"unknown TTS family {sorted(unknown)}: choose from {sorted(PROGRAMS)}")
        self.families, self.workers, self.ranges = tuple(families), workers, ranges

    def available(self) -> bool:
        return bool(self.voices())

    @cached_property
    def _voices(self) -> list[Voice]:
        names = {
            "espeak": [f"{accent}+{variant}" for accent in ESPEAK_ACCENTS for variant in ESPEAK_VARIANTS],
            "flite": list(FLITE_VOICES),
            "festival": ["kal_diphone"],
        }
        return [
            Voice(family, name) for family in self.families if shutil.which(PROGRAMS[family]) for name in names[family]
        ]

    def voices(self) -> list[Voice]:
        return list(self._voices)

    def synthesize(self, utterances: list[Utterance]) -> list[np.ndarray | None]:
        """Speak all utterances; see `dlm.tts.base.Engine`."""
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(speak, utterances))


def speak(utterance: Utterance) -> np.ndarray | None:
    """One utterance as float32 [samples] at 16 kHz, or None when the program failed or said nothing."""
    try:
        wave, rate = _SPEAKERS[utterance.voice.family](utterance)
    except (subprocess.SubprocessError, soundfile.LibsndfileError):
        return None
    return finished(wave, rate)


def _run(command: list[str], text: str | None = None) -> bytes:
    return subprocess.run(
        command, input=None if text is None else text.encode(), capture_output=True, timeout=TIMEOUT, check=True
    ).stdout


def _espeak(utterance: Utterance) -> tuple[np.ndarray, int]:
    speed = round(165 * utterance.rate)  # words a minute
    pitch = int(np.clip(50 * utterance.pitch, 0, 99))
    data = _run(
        ["espeak-ng", "-v", utterance.voice.name, "-s", str(speed), "-p", str(pitch), "--stdin", "--stdout"],
        utterance.text,
    )
    # A pipe cannot be rewound, so the header's length is a placeholder: read the samples after it.
    rate = int.from_bytes(data[24:28], "little")
    return np.frombuffer(data[44 : len(data) - len(data) % 2], "<i2").astype(np.float32) / 32768, rate


def _flite(utterance: Utterance) -> tuple[np.ndarray, int]:
    pitch = FLITE_MEAN_PITCH[utterance.voice.name] * utterance.pitch
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        _run(
            [
                "flite",
                "-voice",
                utterance.voice.name,
                "--setf",
                f"duration_stretch={1 / utterance.rate:.3f}",
                "--setf",
                f"int_f0_target_mean={pitch:.1f}",
                "-t",
                utterance.text,
                "-o",
                str(path),
            ]
        )
        return soundfile.read(path, dtype="float32")


def _festival(utterance: Utterance) -> tuple[np.ndarray, int]:
    stretch = f"(Parameter.set 'Duration_Stretch {1 / utterance.rate:.3f})"
    data = _run(["text2wave", "-eval", stretch], utterance.text)
    return soundfile.read(io.BytesIO(data), dtype="float32")


PROGRAMS = {"espeak": "espeak-ng", "flite": "flite", "festival": "text2wave"}
_SPEAKERS = {"espeak": _espeak, "flite": _flite, "festival": _festival}
