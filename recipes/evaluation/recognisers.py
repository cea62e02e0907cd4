"""Recognisers as plain functions of waves, ours and others, to be compared or to judge enhanced speech."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

RATE = 16_000
System = Callable[[list[np.ndarray]], list[str]]  # recordings at 16 kHz -> their texts


def our_system(decoder: str, model: str | None) -> System:
    """The recogniser on whole recordings one by one, features included, with greedy or beam decoding."""
    from asr.loading import load_recogniser
    from asr.recogniser import DecodeOptions

    recogniser = load_recogniser(model, "cpu")
    options = DecodeOptions(decoder=decoder, word_timestamps=False)
    return one_by_one(lambda wave: recogniser.transcribe_batch([wave], options)[0].text)


def one_by_one(transcribe: Callable[[np.ndarray], str]) -> System:
    """A system that hears one recording at a time."""
    return lambda waves: [transcribe(wave) for wave in waves]


def transcriber(decoder: str, model: str | None, compute_type: str = "auto") -> System:
    """`asr.Transcriber` as its user has it, speech detection and features included; recordings share its batches."""
    from asr.recogniser import DecodeOptions
    from asr.transcriber import Transcriber

    options = DecodeOptions(decoder=decoder, word_timestamps=False)
    transcribe = Transcriber.from_pretrained(model, "cpu", compute_type, options=options)
    return lambda waves: [transcript.text for transcript in transcribe(waves, RATE)]


def faster_whisper(place: str | None, threads: int, batched: bool = False) -> System:
    """Whisper of CTranslate2 in int8, greedy; a folder or the name of a size.

    Args:
        batched: find the speech first and hear its stretches in batches of 8, as its batched pipeline does.
    """
    package = _optional("faster_whisper", "faster-whisper")
    model = package.WhisperModel(place or "tiny.en", device="cpu", compute_type="int8", cpu_threads=threads)
    options = {"language": "en", "beam_size": 1}
    if batched:
        model, options = package.BatchedInferencePipeline(model), {**options, "batch_size": 8}

    def transcribe(wave: np.ndarray) -> str:
        segments, _ = model.transcribe(wave, condition_on_previous_text=False, **options)
        return " ".join(segment.text.strip() for segment in segments)

    return one_by_one(transcribe)


def transformers_model(place: str | None, threads: int) -> System:
    """A Whisper or a CTC model of transformers, a folder or Hub id, greedy."""
    if place is None:
        raise ValueError("transformers needs a model: transformers:FOLDER_OR_HUB_ID")
    from transformers import AutoConfig

    if AutoConfig.from_pretrained(place).model_type == "whisper":
        return _whisper(place)
    from asr.loading import load_recogniser
    from asr.recogniser import DecodeOptions

    recogniser, options = load_recogniser(place, "cpu"), DecodeOptions("greedy", word_timestamps=False)
    if recogniser.sampling_rate != RATE:
        raise ValueError(f"{place} hears {recogniser.sampling_rate} Hz: the recordings are read at {RATE}")
    return one_by_one(lambda wave: recogniser.transcribe_batch([wave], options)[0].text)


def _whisper(place: str) -> System:
    import torch
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(place).eval()
    processor = AutoProcessor.from_pretrained(place)
    languages = getattr(model.generation_config, "is_multilingual", False)
    settings = {"language": "en", "task": "transcribe"} if languages else {}

    @torch.inference_mode()
    def transcribe(wave: np.ndarray) -> str:
        options = {"sampling_rate": RATE, "return_tensors": "pt", "return_attention_mask": True}
        long = len(wave) > 30 * RATE
        if long:
            options |= {"truncation": False, "padding": "longest"}
        tokens = model.generate(**processor(wave, **options), **settings, return_timestamps=long)
        return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()

    return one_by_one(transcribe)


def pocketsphinx(place: str | None = None, threads: int = 1) -> System:
    """PocketSphinx 5 with the model, dictionary and language model of its package."""
    decoder = _optional("pocketsphinx", "pocketsphinx").Decoder(samprate=RATE, loglevel="FATAL")

    def transcribe(wave: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw((wave * 32767).clip(-32768, 32767).astype(np.int16).tobytes(), full_utt=True)
        decoder.end_utt()
        return decoder.hyp().hypstr if decoder.hyp() else ""

    return one_by_one(transcribe)


PEERS = {
    "faster-whisper": faster_whisper,
    "faster-whisper-batched": partial(faster_whisper, batched=True),
    "transformers": transformers_model,
    "pocketsphinx": pocketsphinx,
}


def _optional(module: str, package: str):
    try:
        return import_module(module)
    except ImportError:
        raise ValueError(f"{package} is not installed: pip install {package}, or '.[peers]' for all peers") from None


@dataclass(frozen=True)
class Choice:
    """A system: "ar", "faster-whisper:tiny.en", "transformers:FOLDER" ..., and the threads it gets."""

    name: str
    threads: int = 1
    model: str | None = None  # of our own decoders, where the name does not say it
    compute_type: str = "auto"  # of our own models

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def place(self) -> str | None:
        return self.name.partition(":")[2] or None

    @property
    def label(self) -> str:
        """The name with a folder shortened to what tells it from others."""
        path = Path(self.place or "")
        return f"{self.kind}:{path.parent.name if path.name == 'model' else path.name}" if self.place else self.kind

    def load(self) -> System:
        """The system, ready to hear.

        Raises:
            ValueError: there is no system of this kind, or its package is not installed.
            OSError: there is no such model.
        """
        from asr.recogniser import DECODERS

        if self.kind in DECODERS:
            return transcriber(self.kind, self.place or self.model, self.compute_type)
        if self.kind not in PEERS:
            raise ValueError(f"unknown system {self.name!r}: choose from {', '.join((*DECODERS, *PEERS))}")
        return PEERS[self.kind](self.place, self.threads)
