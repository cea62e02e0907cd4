"""Recognisers that write text token by token: Whisper and its kin in transformers, and faster-whisper.

Each segment of speech is heard on its own, so a recording of any length goes through our segmentation and batching.
Word times come from Whisper's cross-attention (dynamic time warping, openai/whisper's timing), confidence from the
probabilities of the tokens.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from asr.audio.io import SAMPLING_RATE
from asr.output.transcript import Word
from asr.recogniser import DecodeOptions, Reloadable, Utterance

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


MULTILINGUAL = 51_865  # tokens from which on a Whisper knows languages, as openai/whisper tells them apart


class SequenceRecogniser(Reloadable):
    """A speech-to-sequence model of transformers (Whisper, Moonshine, Speech2Text ...), by folder or Hub id."""

    def __init__(self, name: str | Path, device: str = "cpu"):
        from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq, AutoTokenizer

        self.name, self.device = name, device
        self.extractor = AutoFeatureExtractor.from_pretrained(name)
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModelForSpeechSeq2Seq.from_pretrained(name).to(device).eval()
        self.sampling_rate = self.extractor.sampling_rate
        self.is_whisper = self.model.config.model_type == "whisper"
        config = self.model.generation_config
        if self.is_whisper and self.model.config.vocab_size >= MULTILINGUAL:
            tell_languages(config, self.tokenizer)
        codes = getattr(config, "lang_to_id", None) if self.is_whisper else None
        self.languages = tuple(code.strip("<|>") for code in codes) if codes else ("en",) * self.is_whisper
        if self.is_whisper and not getattr(config, "alignment_heads", None):
            layers, heads = self.model.config.decoder_layers, self.model.config.decoder_attention_heads
            config.alignment_heads = [[i, h] for i in range(layers // 2, layers) for h in range(heads)]

    def prepare(self, options: DecodeOptions) -> None:
        """Raises ValueError where the model has no such decoder, language, task or prompt."""
        self._choices(options)

    @torch.inference_mode()
    def transcribe_batch(self, waves: list[np.ndarray], options: DecodeOptions) -> list[Utterance]:
        """Utterances of waves [samples], in their order."""
        padding = {} if self.is_whisper else {"padding": True}  # Whisper's own is to 30 seconds
        inputs = self.extractor(
            waves, sampling_rate=self.sampling_rate, return_tensors="pt", return_attention_mask=True, **padding
        ).to(self.device)
        written = self.model.generate(
            **inputs, return_dict_in_generate=True, output_scores=True, **self._choices(options)
        )
        sequences = written["sequences"]
        beams = {"beam_indices": written["beam_indices"]} if "beam_indices" in written else {}
        scores = self.model.compute_transition_scores(sequences, written["scores"], normalize_logits=True, **beams)
        first = sequences.shape[1] - scores.shape[1]
        times = written.get("token_timestamps")
        return [
            self._utterance(sequences[i, first:], scores[i], None if times is None else times[i, first - 1 :], wave)
            for i, wave in enumerate(waves)
        ]

    def _choices(self, options: DecodeOptions) -> dict:
        """Arguments of `generate`."""
        check_decoder(self.name, options)
        if options.hotwords:
            raise ValueError(f"{self.name}: cannot be told hotwords; a Whisper takes them as --initial_prompt, and "
                             "through faster-whisper as --hotwords")
        choices: dict = {"num_beams": options.beam_size if options.decoder == "beam" else 1}
        if options.temperature:
            choices |= {"do_sample": True, "temperature": options.temperature}
        if not self.is_whisper:
            refuse_prompts(self.name, options)
            return choices
        choices["return_token_timestamps"] = options.word_timestamps
        if getattr(self.model.generation_config, "lang_to_id", None):
            check_language(self.name, options, self.languages)
            choices |= {"language": options.language, "task": options.task}
        else:
            refuse_languages(self.name, options)
        if options.initial_prompt:
            prompt = self.tokenizer.get_prompt_ids(options.initial_prompt, return_tensors="pt")
            most = self.model.config.max_target_positions // 2 - 2  # the end of a longer one, as Whisper has it
            choices["prompt_ids"] = torch.cat([prompt[:1], prompt[1:][-most:]]).to(self.device)
        return choices

    def _utterance(self, tokens: Tensor, scores: Tensor, times: Tensor | None, wave: np.ndarray) -> Utterance:
        special = set(self.tokenizer.all_special_ids)
        kept = [i for i, token in enumerate(tokens.tolist()) if token not in special]
        text = self.tokenizer.decode(tokens[kept], skip_special_tokens=True).strip()
        seconds = len(wave) / self.sampling_rate
        if not text:
            return Utterance("")
        score = float(scores[kept].sum())
        if times is None:
            return Utterance(text, [], score)
        pieces = self.tokenizer.convert_ids_to_tokens(tokens[kept].tolist())
        groups = word_groups(pieces)
        words = []
        for group, word in zip(groups, text.split(), strict=False):
            first, last = kept[group[0]], kept[group[-1]]
            start, end = min(float(times[first]), seconds), min(float(times[last + 1]), seconds)
            confidence = math.exp(min(float(scores[kept[i]]) for i in group))
            words.append(Word(word, start, max(start, end), min(1.0, confidence)))
        return Utterance(text, words if len(groups) == len(text.split()) else [], score)


class FasterWhisperRecogniser(Reloadable):
    """A Whisper in CTranslate2's format, through `faster-whisper` (a folder, a size such as "base.en", or a Hub id)."""

    sampling_rate = SAMPLING_RATE

    def __init__(self, name: str | Path, device: str = "cpu"):
        try:
            from faster_whisper import WhisperModel
        except ImportError:
            raise ValueError(f"{name}: is a faster-whisper model; install it with pip install faster-whisper") from None
        self.name = name
        kind = torch.device(device).type
        try:
            self.model = WhisperModel(str(name), device=kind, compute_type="auto", cpu_threads=torch.get_num_threads())
        except (RuntimeError, ValueError) as error:
            raise OSError(f"{name}: faster-whisper cannot load it ({str(error).splitlines()[0]})") from error
        self.languages = tuple(self.model.supported_languages)

    def prepare(self, options: DecodeOptions) -> None:
        """Raises ValueError where the model has no such decoder, language or task."""
        check_decoder(self.name, options)
        if options.hotword_strength is not None:
            raise ValueError(f"{self.name}: faster-whisper takes hotwords as a prompt, which has no strength")
        if not self.model.model.is_multilingual:
            refuse_languages(self.name, options)
        check_language(self.name, options, self.languages)

    def transcribe_batch(self, waves: list[np.ndarray], options: DecodeOptions) -> list[Utterance]:
        """Utterances of waves [samples] at 16 kHz, in their order."""
        return [self._utterance(wave, options) for wave in waves]

    def _utterance(self, wave: np.ndarray, options: DecodeOptions) -> Utterance:
        segments, _ = self.model.transcribe(
            wave,
            beam_size=options.beam_size if options.decoder == "beam" else 1,
            language=options.language,
            task=options.task,
            initial_prompt=options.initial_prompt,
            hotwords=", ".join(options.hotwords) or None,
            temperature=options.temperature,
            word_timestamps=options.word_timestamps,
            condition_on_previous_text=False,
        )
        segments = list(segments)
        words = [
            Word(word.word.strip(), float(word.start), float(word.end), float(word.probability))
            for segment in segments
            for word in segment.words or []
        ]
        text = " ".join(segment.text.strip() for segment in segments)
        score = sum(segment.avg_logprob * len(segment.tokens) for segment in segments)
        return Utterance(text, words, float(score))


def tell_languages(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Fill in what a multilingual Whisper's generation takes for granted, where a conversion has left it out."""
    if getattr(config, "lang_to_id", None):
        return
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    ids = tokenizer.get_vocab()
    config.lang_to_id = {f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in ids}
    config.task_to_id = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    config.is_multilingual = True
    config.no_timestamps_token_id, config.prev_sot_token_id = ids["<|notimestamps|>"], ids["<|startofprev|>"]


def word_groups(pieces: list[str]) -> list[list[int]]:
    """Indices of the pieces of each word; a word begins with a space, as byte-level pairs or SentencePiece write it."""
    groups: list[list[int]] = []
    for i, piece in enumerate(pieces):
        if not groups or piece.startswith(("\u0120", "\u2581", " ")):
            groups.append([])
        groups[-1].append(i)
    return groups


def check_decoder(name: str | Path, options: DecodeOptions) -> None:
    """Raises ValueError for a decoder that models which write token by token do not have."""
    if options.decoder not in (None, "ar", "beam"):
        raise ValueError(f"{name}: has no decoder {options.decoder!r}; it has ar and beam")


def check_language(name: str | Path, options: DecodeOptions, known: tuple[str, ...]) -> None:
    """Raises ValueError for a language that a multilingual model was not made for."""
    if options.language not in (None, *known):
        raise ValueError(f"{name}: language {options.language!r} is not among those it knows: {', '.join(known)}")


def refuse_languages(name: str | Path, options: DecodeOptions) -> None:
    """Raises ValueError for a language or a translation that a model of English cannot give."""
    if options.language not in (None, "en") or options.task != "transcribe":
        raise ValueError(f"{name}: writes English only; --language and --task translate need a multilingual model")


def refuse_prompts(name: str | Path, options: DecodeOptions) -> None:
    """Raises ValueError for what only Whisper and its kin can be told: language, task, prompt."""
    refuse_languages(name, options)
    if options.initial_prompt:
        raise ValueError(f"{name}: cannot be told --initial_prompt; that needs a Whisper model")
