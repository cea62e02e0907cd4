"""Text-to-speech engines behind one interface."""

from dlm.tts.base import Engine, Ranges, Utterance, Voice
from dlm.tts.cast import Cast, engines
from dlm.tts.command import CommandTTS
from dlm.tts.hibari import HibariTTS
from dlm.tts.piper import PiperTTS
from dlm.tts.vits import VitsTTS

__all__ = [
    "Cast", "CommandTTS", "Engine", "HibariTTS", "PiperTTS", "Ranges", "Utterance", "VitsTTS", "Voice", "engines",
]  # fmt: skip
