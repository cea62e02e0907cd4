"""Text-to-speech engines behind one interface; `engine(name)` makes one by name."""

from dlm.tts.base import Engine, Utterance, Voice
from dlm.tts.command import CommandTTS

__all__ = ["CommandTTS", "Engine", "Utterance", "Voice"]
