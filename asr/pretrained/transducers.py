"""Transducers of transformers (Parakeet RNN-T and TDT) as recognisers.

A transducer walks over the encoder's frames and writes a token or goes on by a frame, or, with durations (TDT, Xu et
al. 2023, arXiv 2304.06795), by as many as it says; so every token has its time.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.output.transcript import Word
from asr.pretrained.ctc import SHORTEST
from asr.pretrained.sequences import refuse_prompts, word_groups
from asr.recogniser import DecodeOptions, Reloadable, Utterance
from asr.text.tokenizer import WORD_MARK


class TransducerRecogniser(Reloadable):
    """A transducer by folder or Hub id; it decodes greedily, which is what transformers offers for them."""

    def __init__(self, name: str | Path, device: str = "cpu"):
        from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForRNNT, AutoModelForTDT, AutoTokenizer

        self.name, self.device = name, device
        self.has_durations = hasattr(AutoConfig.from_pretrained(name), "durations")
        kind = AutoModelForTDT if self.has_durations else AutoModelForRNNT
        self.extractor, self.tokenizer = AutoFeatureExtractor.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        self.model = kind.from_pretrained(name).to(device).eval()
        self.sampling_rate = self.extractor.sampling_rate
        config = self.model.config
        self.frame_seconds = self.extractor.hop_length * config.encoder_config.subsampling_factor / self.sampling_rate
        self.silent = {*self.tokenizer.all_special_ids, config.blank_token_id, config.pad_token_id}

    def prepare(self, options: DecodeOptions) -> None:
        """Raises ValueError for what a transducer cannot do or be told."""
        if options.decoder not in (None, "greedy"):
            raise ValueError(f"{self.name}: is a transducer, which has no decoder {options.decoder!r}; it has greedy")
        if options.hotwords or options.temperature:
            raise ValueError(f"{self.name}: is a transducer, which takes no hotwords and no temperature")
        refuse_prompts(self.name, options)

    @torch.inference_mode()
    def transcribe_batch(self, waves: list[np.ndarray], options: DecodeOptions) -> list[Utterance]:
        """Utterances of waves [samples], in their order."""
        shortest = round(SHORTEST * self.sampling_rate)
        padded = [np.pad(wave, (0, max(0, shortest - len(wave)))) for wave in waves]
        inputs = self.extractor(
            padded, sampling_rate=self.sampling_rate, return_tensors="pt", return_attention_mask=True
        ).to(self.device)
        config = self.model.config
        frames = inputs["input_features"].shape[1] // config.encoder_config.subsampling_factor + 1
        sure = _Probabilities(config.vocab_size)
        # The library's own limit leaves no room for the blanks.
        most = (config.max_symbols_per_step + 1) * frames
        written = self.model.generate(**inputs, logits_processor=[sure], max_new_tokens=most)
        steps = written.durations.cumsum(-1) - written.durations  # frame of each token
        # The first token starts the text and has no probability.
        rows = zip(written.sequences[:, 1:], steps[:, 1:], written.durations[:, 1:], sure.stacked(), strict=True)
        return [self._utterance(*row, wave) for row, wave in zip(rows, waves, strict=True)]

    def _utterance(self, tokens: Tensor, frames: Tensor, spans: Tensor, scores: Tensor, wave: np.ndarray) -> Utterance:
        seconds = len(wave) / self.sampling_rate
        kept = [i for i, token in enumerate(tokens.tolist()) if token not in self.silent]
        pieces = self.tokenizer.convert_ids_to_tokens(tokens[kept].tolist())
        words = []
        for group in word_groups(pieces):
            text = "".join(pieces[i] for i in group).replace(WORD_MARK, " ").strip()
            if not text:
                continue
            # A sign behind a word is written when the word is long over.
            sounding = [i for i in group if any(c.isalnum() for c in pieces[i])] or group
            first, last = kept[sounding[0]], kept[sounding[-1]]
            span = max(1, int(spans[last])) if self.has_durations else 1
            start = min(seconds, float(frames[first]) * self.frame_seconds)
            end = min(seconds, (float(frames[last]) + span) * self.frame_seconds)
            confidence = math.exp(min(float(scores[kept[i]]) for i in group))
            words.append(Word(text, start, max(start, end), confidence))
        return Utterance(" ".join(word.text for word in words), words, float(scores[kept].sum()))


class _Probabilities:
    """Notes how probable each token was (a logits processor), and keeps the logits of durations out of the choice."""

    def __init__(self, vocabulary: int):
        self.vocabulary = vocabulary
        self.best: list[Tensor] = []

    def __call__(self, tokens: Tensor, logits: Tensor) -> Tensor:
        self.best.append(logits[:, : self.vocabulary].float().log_softmax(-1).amax(-1))
        logits = logits.clone()
        logits[:, self.vocabulary :] = -torch.inf
        return logits

    def stacked(self) -> Tensor:
        """Log-probabilities [batch, steps]."""
        return torch.stack(self.best, dim=1)
