"""Recognisers that write labels for recordings: Whisper, other models of transformers, faster-whisper.

    labeller = load_labeller("openai/whisper-base")          # a Hub id or a folder
    texts = labeller.transcribe(waves)                       # waves [samples] at 16 kHz, at most `labeller.longest` s

Whisper hears 30 s whatever it is given, so short recordings are packed: several in one window with a pause between
them. The window's text is cut where the references say, or, without references, by the times of its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from asr.audio.features import SAMPLING_RATE
from asr.text.written import cut

LONGEST = 28.0  # seconds that a window of Whisper's 30 s holds, with room for what the model makes of its end
PAUSE = 0.8  # seconds between the recordings of a window
MOST_TOKENS = 300  # of one text; 30 s of fast speech have 150, and a model that loops must end
LEVEL = 0.06  # root mean square of each recording in a window


class Labeller(Protocol):
    """Anything that writes down what recordings say."""

    longest: float  # seconds of a recording

    def transcribe(self, waves: Sequence[np.ndarray], references: Sequence[str] | None = None) -> list[str]:
        """Texts of waves [samples] at 16 kHz, in order; "" where nothing is said.

        `references`, the words of each where they are known, only help to find where a recording ends.
        """


def load_labeller(
    name: str | Path, device: str = "cpu", compute_type: str = "auto", language: str = "en", batch: int = 4
) -> Labeller:
    """A labeller from a folder or a Hub id: Whisper, a CTC or sequence-to-sequence model, or a faster-whisper folder.

    Args:
        name: folder or Hub id.
        device: "cpu", "cuda" ...
        compute_type: "auto", "float32", "bfloat16", "float16", and "int8" for faster-whisper. "auto" is int8 (CPU) or
            float16 for faster-whisper; for the others bfloat16 where the processor computes it, else float32.
        language: code of what is spoken; Whisper only.
        batch: windows or recordings that go through the model together.

    Raises:
        ValueError: there is no such model, it is no recogniser, or a package is missing.
    """
    if Path(name, "model.bin").exists():
        return FasterWhisperLabeller(str(name), device, "default" if compute_type == "auto" else compute_type, language)
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    try:
        kind = AutoConfig.from_pretrained(name).model_type
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name} is neither a folder nor a Hub id of a model of transformers ({reason})") from None
    options = (str(name), device, compute_type, batch)
    if kind == "whisper":
        return WhisperLabeller(*options, language)
    if kind in modeling_auto.MODEL_FOR_CTC_MAPPING_NAMES:
        return CTCLabeller(*options)
    if kind in modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES:
        return Seq2SeqLabeller(*options)
    raise ValueError(f"{name} is a {kind} model: name a recogniser (Whisper, a CTC or sequence-to-sequence model)")


# -- packing -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """A word of a window as it is written, space in front, and when it is said, in seconds."""

    text: str
    start: float
    end: float


def pack(seconds: Sequence[float], longest: float = LONGEST, pause: float = PAUSE) -> list[list[int]]:
    """Numbers of recordings that share a window, in order; one that is too long has a window of its own."""
    windows: list[list[int]] = []
    filled = longest
    for number, length in enumerate(seconds):
        if not windows or filled + pause + length > longest:
            windows.append([])
            filled = -pause
        windows[-1].append(number)
        filled += pause + length
    return windows


def window_of(waves: Sequence[np.ndarray]) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Recordings one after the other at one level, and from when to when each of them lasts in seconds."""
    parts, spans, position = [], [], 0
    for wave in waves:
        level = float(np.sqrt(np.mean(np.square(wave)))) if len(wave) else 0.0
        parts += [wave * np.float32(LEVEL / max(level, 1e-4)), np.zeros(round(PAUSE * SAMPLING_RATE), np.float32)]
        spans.append((position / SAMPLING_RATE, (position + len(wave)) / SAMPLING_RATE))
        position += len(parts[-2]) + len(parts[-1])
    return np.concatenate(parts[:-1]).astype(np.float32), spans


def share(words: Sequence[Word], spans: Sequence[tuple[float, float]]) -> list[str]:
    """Texts of the recordings of a window: a word goes to the recording it overlaps most, or lies nearest to."""
    texts, current = ["" for _ in spans], 0
    for word in words:
        overlaps = [min(word.end, end) - max(word.start, start) for start, end in spans]  # negative: the distance
        current = max(range(current, len(spans)), key=lambda number: overlaps[number])
        texts[current] += word.text
    return [text.strip() for text in texts]


class _Packing:
    """Transcription by windows, for models that hear 30 s whatever they are given."""

    longest = LONGEST
    batch = 1

    def transcribe(self, waves: Sequence[np.ndarray], references: Sequence[str] | None = None) -> list[str]:
        """See `Labeller`."""
        texts = [""] * len(waves)
        windows = pack([len(wave) / SAMPLING_RATE for wave in waves])
        for first in range(0, len(windows), self.batch):
            chosen = windows[first : first + self.batch]
            mixed, spans = zip(*(window_of([waves[i] for i in window]) for window in chosen), strict=True)
            timed = references is None and any(len(window) > 1 for window in chosen)
            for window, places, words in zip(chosen, spans, self.hear(mixed, timed), strict=True):
                whole = "".join(word.text for word in words).strip()
                if len(window) == 1:
                    found = [whole]
                elif references is None:
                    found = share(words, places)
                else:
                    found = cut([references[i] for i in window], whole)
                for number, text in zip(window, found, strict=True):
                    texts[number] = text
        return texts

    def hear(self, windows: Sequence[np.ndarray], timed: bool) -> list[list[Word]]:
        """Words of each window [samples]; their times are right if `timed`."""
        raise NotImplementedError


# -- models ------------------------------------------------------------------------------------------------


class WhisperLabeller(_Packing):
    """A Whisper checkpoint of transformers."""

    def __init__(self, name: str, device: str, compute_type: str, batch: int, language: str):
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        self.processor = WhisperProcessor.from_pretrained(name)
        self.model = _loaded(WhisperForConditionalGeneration, name, device, compute_type)
        self.batch = batch
        settings = self.model.generation_config
        self.longest_text = min(MOST_TOKENS, self.model.config.max_target_positions - 8)  # the prompt takes the rest
        multilingual = getattr(settings, "is_multilingual", False)
        self.prompt = {"language": language, "task": "transcribe"} if multilingual else {}
        if not hasattr(settings, "alignment_heads"):
            # Whose attention follows the sound is unknown: all heads of the upper half, as OpenAI's own code takes.
            layers, heads = self.model.config.decoder_layers, self.model.config.decoder_attention_heads
            settings.alignment_heads = [[layer, head] for layer in range(layers // 2, layers) for head in range(heads)]

    def hear(self, windows: Sequence[np.ndarray], timed: bool) -> list[list[Word]]:
        import torch

        inputs = self.processor.feature_extractor(
            list(windows), sampling_rate=SAMPLING_RATE, return_tensors="pt", return_attention_mask=True
        )
        features = inputs.input_features.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            made = self.model.generate(
                features, attention_mask=inputs.attention_mask.to(features.device), num_beams=1, do_sample=False,
                return_token_timestamps=timed, max_new_tokens=self.longest_text, **self.prompt,
            )  # fmt: skip
        if not timed:
            return [[Word(text, 0, 0)] for text in self.processor.batch_decode(made, skip_special_tokens=True)]
        return [self._words(*pair) for pair in zip(made["sequences"], made["token_timestamps"], strict=True)]

    def _words(self, tokens, times) -> list[Word]:
        """Tokens joined to words; a token's time is when it ends (huggingface/transformers#36632)."""
        tokenizer, groups = self.processor.tokenizer, []
        begins = [0.0, *times.tolist()[:-1]]
        for token, time in zip(tokens.tolist(), begins, strict=True):
            if not groups or tokenizer.convert_ids_to_tokens(token).startswith("Ġ"):  # a space in byte-level BPE
                groups.append(([], time))
            groups[-1][0].append(token)
        ends = [start for _, start in groups[1:]] + [float(times[-1])]
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in groups]
        return [Word(text, start, end) for text, (_, start), end in zip(texts, groups, ends, strict=True) if text]


class FasterWhisperLabeller(_Packing):
    """A Whisper checkpoint converted for faster-whisper (`pip install faster-whisper`)."""

    def __init__(self, name: str, device: str, compute_type: str, language: str):
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise ValueError(f"{name} is a faster-whisper model: pip install faster-whisper") from None
        if compute_type == "default":
            compute_type = "int8" if device == "cpu" else "float16"
        self.model, self.language = WhisperModel(name, device=device, compute_type=compute_type), language

    def hear(self, windows: Sequence[np.ndarray], timed: bool) -> list[list[Word]]:
        return [self._words(window, timed) for window in windows]

    def _words(self, window: np.ndarray, timed: bool) -> list[Word]:
        segments, _ = self.model.transcribe(
            window, language=self.language, beam_size=1, temperature=0.0, condition_on_previous_text=False,
            without_timestamps=True, word_timestamps=timed,
        )  # fmt: skip
        if not timed:
            return [Word(segment.text, segment.start, segment.end) for segment in segments]
        return [Word(word.word, word.start, word.end) for segment in segments for word in segment.words or ()]


class Seq2SeqLabeller:
    """A sequence-to-sequence recogniser of transformers that hears recordings at their own length."""

    longest = 30.0
    auto_class = "AutoModelForSpeechSeq2Seq"

    def __init__(self, name: str, device: str, compute_type: str, batch: int):
        import transformers

        self.processor = transformers.AutoProcessor.from_pretrained(name)
        self.model = _loaded(getattr(transformers, self.auto_class), name, device, compute_type)
        self.batch = batch

    def transcribe(self, waves: Sequence[np.ndarray], references: Sequence[str] | None = None) -> list[str]:
        """See `Labeller`."""
        texts = [""] * len(waves)
        order = sorted(range(len(waves)), key=lambda number: len(waves[number]))  # alike in length, little padding
        for first in range(0, len(order), self.batch):
            chosen = order[first : first + self.batch]
            for number, text in zip(chosen, self._texts([waves[i] for i in chosen]), strict=True):
                texts[number] = text.strip()
        return texts

    def _texts(self, waves: list[np.ndarray]) -> list[str]:
        import torch

        inputs = self.processor(waves, sampling_rate=SAMPLING_RATE, return_tensors="pt", padding=True)
        moved = {
            key: value.to(self.model.device, self.model.dtype if value.is_floating_point() else value.dtype)
            for key, value in inputs.items()
        }
        with torch.inference_mode():
            return self.processor.batch_decode(self._tokens(moved), skip_special_tokens=True)

    def _tokens(self, inputs: dict):
        return self.model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=MOST_TOKENS)


class CTCLabeller(Seq2SeqLabeller):
    """A CTC model of transformers (wav2vec 2.0, HuBERT, Parakeet ...): words as they are heard, mostly without case."""

    auto_class = "AutoModelForCTC"

    def _tokens(self, inputs: dict):
        return self.model(**inputs).logits.argmax(dim=-1)

    def _texts(self, waves: list[np.ndarray]) -> list[str]:
        return [text.lower() if text == text.upper() else text for text in super()._texts(waves)]


def _loaded(model_class, name: str, device: str, compute_type: str):
    import torch

    if compute_type not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f"compute_type is {compute_type}: {name} can be run in float32, bfloat16 or float16")
    dtype = _fastest(device) if compute_type == "auto" else getattr(torch, compute_type)
    return model_class.from_pretrained(name, dtype=dtype).to(device).eval()


def _fastest(device: str):
    import torch

    if device == "cpu":
        computes = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if computes else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
