"""The hybrid model behind `asr.Transcriber`: CTC decoders over its units, text decoders over its written tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.ar.greedy import decode_greedily
from asr.ar.rescoring import TextScorer
from asr.ctc.beam import BeamOptions, Hypothesis, best_path, prefix_beam
from asr.ctc.ngram import NGram
from asr.ctc.timing import align_text
from asr.hub import model_file
from asr.hybrid.model import HybridModel
from asr.hybrid.precision import converted
from asr.recogniser import DecodeOptions, Utterance

DECODERS = ("greedy", "beam", "ar")


@dataclass
class Heard:
    """What the model makes of a batch: encoder output [batch, frames, width], its lengths [batch], and the CTC
    log-probabilities [steps, units] of each wave."""

    hidden: Tensor
    lengths: Tensor
    posteriors: list[Tensor]


class HybridRecogniser:
    """A `HybridModel` of a folder or the Hub.

    Args:
        name: of the model.
        device: "cpu", "cuda" ...
        compute_type: see `asr.hybrid.precision`.
    """

    sampling_rate = 16_000
    default_decoder = "ar"

    def __init__(self, name: str | Path, device: str = "cpu", compute_type: str = "auto"):
        model = HybridModel.from_pretrained(name).to(device).eval()
        self.model = converted(model, compute_type, device)
        self.device = device
        self.tokenizer = self.model.units
        self.calibration = self.model.calibration
        self.beam = BeamOptions(**self.model.beam)
        self._ngram = model_file(name, "ngram.npz")

    @cached_property
    def lm(self) -> NGram | None:
        """The n-gram over the CTC units; read when the first beam search asks for it."""
        return NGram.load(self._ngram) if self._ngram else None

    @torch.inference_mode()
    def listen(self, waves: list[np.ndarray]) -> Heard:
        """Encoder and CTC branch on a batch of waves [samples] at 16 kHz."""
        tensors = [torch.from_numpy(np.ascontiguousarray(wave)) for wave in waves]
        # One by one an utterance stays in a CPU's cache and nothing is padding; a GPU wants them all at once.
        groups = [[wave] for wave in tensors] if torch.device(self.device).type == "cpu" else [tensors]
        hidden, posteriors = [], []
        for group in groups:
            features, lengths = (part.to(self.device) for part in self.model.features(group))
            states, frames, log_probabilities, steps = self.model(features, lengths)
            hidden += [row[:n] for row, n in zip(states, frames.tolist(), strict=True)]
            posteriors += [row[:n].cpu() for row, n in zip(log_probabilities, steps.tolist(), strict=True)]
        lengths = torch.tensor([len(row) for row in hidden], device=self.device)
        return Heard(pad_sequence(hidden, batch_first=True), lengths, posteriors)

    def log_probabilities(self, waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """CTC log-probabilities [batch, steps, units] of a batch and their lengths [batch]."""
        posteriors = self.listen(waves).posteriors
        return pad_sequence(posteriors, batch_first=True), torch.tensor([len(row) for row in posteriors])

    def hypotheses(self, heard: Heard, options: DecodeOptions) -> list[list[Hypothesis]]:
        """Hypotheses of each utterance, best first.

        Raises:
            ValueError: the model has no such decoder.
        """
        decoder = options.decoder or self.default_decoder
        if decoder == "greedy":
            return [[best_path(frames, self.tokenizer)] for frames in heard.posteriors]
        if decoder == "beam":
            beam = replace(self.beam, beam_size=options.beam_size)
            return [prefix_beam(frames, self.tokenizer, beam, self.lm) for frames in heard.posteriors]
        if decoder == "ar":
            return [[best] for best in self._write(heard)]
        raise ValueError(f"decoder {decoder!r} does not exist for this model; it has {', '.join(DECODERS)}")

    @torch.inference_mode()
    def transcribe_batch(self, waves: list[np.ndarray], options: DecodeOptions) -> list[Utterance]:
        """Utterances of waves [samples], in their order."""
        heard = self.listen(waves)
        calibration = self.calibration.get(options.decoder or self.default_decoder, (1.0, 0.0))
        utterances = []
        for frames, nbest in zip(heard.posteriors, self.hypotheses(heard, options), strict=True):
            best, words = nbest[0], []
            if options.word_timestamps:
                words = align_text(
                    frames, best.text, self.tokenizer, self.model.hop_seconds, calibration, self._word_scores(best)
                )
            rivals = [(hypothesis.text, hypothesis.score) for hypothesis in nbest] if len(nbest) > 1 else []
            scorer = TextScorer(frames, self.tokenizer, lambda: self.lm)
            utterances.append(Utterance(best.text, words, best.score, rivals, scorer))
        return utterances

    def _write(self, heard: Heard) -> list[Hypothesis]:
        """The decoder's own text of each utterance, where CTC supports it; else the draft."""
        decoder = self.model.decoder
        written = decode_greedily(decoder, decoder.remember(heard.hidden, heard.lengths))
        return [
            self._supported(tokens, confidences, frames)
            for tokens, confidences, frames in zip(
                written.tokens, written.confidences, heard.posteriors, strict=True
            )
        ]

    def _supported(self, tokens: list[int], confidences: list[float], frames: Tensor) -> Hypothesis:
        """The text, or the CTC draft where the decoder wrote what nobody said.

        A decoder invents text on noise and repeats itself where it loses the speech; CTC, which has no memory of
        what it wrote, does neither. Its draft says how many words there are.
        """
        text = self.model.tokenizer.decode(tokens)
        draft = best_path(frames, self.tokenizer)
        said, wrote = len(draft.text.split()), len(text.split())
        if not said or not 0.5 * said - 3 <= wrote <= 1.5 * said + 3:
            return draft
        scores = [math.log(max(c, 1e-9)) for c in confidences]
        return Hypothesis(tokens, text, sum(scores), scores)

    def _word_scores(self, hypothesis: Hypothesis) -> list[float] | None:
        """Log-probability of each word of a text that the decoder wrote: of its least sure token."""
        if hypothesis.token_scores is None:
            return None
        groups: list[list[float]] = []
        for token, score in zip(hypothesis.tokens, hypothesis.token_scores, strict=True):
            if not groups or self.model.tokenizer.starts_word(token):
                groups.append([])
            groups[-1].append(score)
        return [min(group) for group in groups] if len(groups) == len(hypothesis.text.split()) else None
