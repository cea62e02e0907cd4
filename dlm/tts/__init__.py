"""Text-to-speech engines behind one interface."""

from dlm.tts.base import Engine, Utterance, Voice
from dlm.tts.command import CommandTTS
from dlm.tts.vits import VitsTTS

__all__ = ["CommandTTS", "Engine", "Utterance", "VitsTTS", "Voice"]
