"""The hybrid model as a recogniser: Whisper's encoder, the CTC branch, and the decoder that writes text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.ar.rescoring import ctc_scores
from asr.audio.features import FRAME_HOP
from asr.ctc.beam import BeamOptions
from asr.decoders import DECODERS, twin_decoder
from asr.dllm.canvas import ctc_draft
from asr.dllm.decoder import DenoisingDecoder
from asr.hub import model_file
from asr.hybrid.model import HybridModel
from asr.hybrid.precision import converted
from asr.hybrid.stepping import SteppingDecoder
from asr.memory import give_back
from asr.parts import Decoded, Encoded, Listened, TextDecoder, Vocabulary
from asr.recogniser import DecodeOptions, SpeechRecogniser
from asr.text.tokenizer import Tokenizer

LONG = 1000  # frames of a batch; what the encoder leaves behind is then worth giving back before the decoder starts
OWN = ("ar", "speculative", "rescored")


class HybridEncoder:
    """Features and encoder of a `HybridModel`; a batch is heard one by one on a CPU, at once on a GPU.

    One by one an utterance stays in the processor's cache and nothing is padding. What is longer than the encoder
    takes is heard in pieces, cut where it is quiet.
    """

    sampling_rate = 16_000

    def __init__(self, model: HybridModel, device: str):
        self.model, self.device = model, device
        self.longest = model.encoder.sizes.longest * 2 * FRAME_HOP  # samples

    def __call__(self, waves: list[np.ndarray]) -> Encoded:
        pieces = [cut_at_quiet(wave, self.longest) for wave in waves]
        heard = self._hear([torch.from_numpy(np.ascontiguousarray(p)) for parts in pieces for p in parts])
        rows = [[torch.cat(part) for part in zip(*(next(heard) for _ in parts), strict=True)] for parts in pieces]
        hidden, mixed = (pad_sequence(list(part), batch_first=True) for part in zip(*rows, strict=True))
        if hidden.shape[0] * hidden.shape[1] > LONG:
            give_back()
        return Encoded(hidden, torch.tensor([len(row[0]) for row in rows], device=self.device), mixed)

    def _hear(self, waves: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The last states [frames, width] of each wave, and what the branch listens to; the others are let go."""
        groups = [[wave] for wave in waves] if torch.device(self.device).type == "cpu" else [waves]
        for group in groups:
            features, lengths = (part.to(self.device) for part in self.model.features(group))
            states, frames = self.model.encoder(features, lengths)
            mixed = self.model.branch.mix(states)
            yield from ((states[-1][i, :n], mixed[i, :n]) for i, n in enumerate(frames.tolist()))


def cut_at_quiet(wave: np.ndarray, longest: int, frame: int = 320) -> list[np.ndarray]:
    """Pieces of at most `longest` samples, cut in the quietest frame of the last third of each."""
    pieces = []
    while len(wave) > longest:
        first = longest * 2 // 3 // frame * frame
        power = np.square(wave[first : longest // frame * frame]).reshape(-1, frame).mean(1)
        cut = first + int(power.argmin()) * frame + frame // 2
        pieces.append(wave[:cut])
        wave = wave[cut:]
    return [*pieces, wave]


class HybridBranch:
    """The CTC branch of a `HybridModel`, which listens to all layers of the encoder."""

    def __init__(self, model: HybridModel):
        self.model, self.tokenizer, self.hop_seconds = model, model.units, model.hop_seconds

    def __call__(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        if encoded.hidden.device.type != "cpu":
            return self.model.branch.read(encoded.mixed, encoded.lengths)
        rows = []
        for i, n in enumerate(encoded.lengths.tolist()):
            rows.append(self.model.branch.read(encoded.mixed[i : i + 1, :n], encoded.lengths[i : i + 1])[0][0])
        return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


@dataclass
class Guarded:
    """A decoder whose text is cut where CTC does not support it.

    A decoder invents text on noise and repeats itself where it loses the speech or where a recording breaks off; CTC,
    which does not know what it wrote before, does neither. Its draft says about how many words there are. A text of
    far more is cut to the beginning that CTC finds the most probable; where there is no draft, nothing was said; and
    where the text has far fewer words, the draft takes its place.
    """

    decoder: TextDecoder
    units: Tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        return self.decoder.vocabulary

    @property
    def keep_trace(self) -> bool:
        """Whether a denoiser behind the guard keeps its passes, for the view of the canvas."""
        return self.decoder.keep_trace

    @keep_trace.setter
    def keep_trace(self, wanted: bool) -> None:
        self.decoder.keep_trace = wanted

    def __call__(self, heard: Listened) -> Decoded:
        written = self.decoder(heard)
        for i, frames in enumerate(heard.posteriors):
            draft = ctc_draft(frames)
            said = len(self.units.decode(draft.tokens).split())
            if not said or self._words(written.tokens[i]) < 0.5 * said - 3:
                draft = self.vocabulary.translate(draft, self.units)
                written.tokens[i], written.confidences[i] = draft.tokens, draft.confidences
            elif self._words(written.tokens[i]) > 1.25 * said + 1:
                kept = self._supported(written.tokens[i], frames, round(1.5 * said + 3))
                written.tokens[i], written.confidences[i] = written.tokens[i][:kept], written.confidences[i][:kept]
        return written

    def _words(self, tokens: list[int]) -> int:
        return len(self.vocabulary.decode(tokens).split())

    def _supported(self, tokens: list[int], frames: Tensor, most: int) -> int:
        """How many tokens make the beginning of at most so many words that CTC finds the most probable."""
        ends = [i for i, token in enumerate(tokens) if i and self.vocabulary.starts_word(token)][:most]
        ends = [*ends, len(tokens)][:most]
        texts = [self.vocabulary.decode(tokens[:end]) for end in ends]
        scores = ctc_scores(frames, [self.units.encode(text) for text in texts], self.units.blank_id)
        return ends[int(scores.argmax())]


def hybrid_recogniser(name: str | Path, device: str = "cpu", compute_type: str = "auto") -> SpeechRecogniser:
    """A recogniser around a `HybridModel` of a folder or the Hub.

    Its decoder denoises the CTC draft ("dllm", where it was trained to), writes ("ar"), verifies the draft
    ("speculative") or judges the texts of the beam search ("rescored"). An `ngram.npz` over the units of the branch,
    if it lies beside the weights, serves the beam.

    Args:
        name: of the model.
        device: "cpu", "cuda" ...
        compute_type: see `asr.hybrid.precision`.
    """
    model = converted(HybridModel.from_pretrained(name).to(device).eval(), compute_type, device)
    recogniser = SpeechRecogniser(
        HybridEncoder(model, device),
        HybridBranch(model),
        vocabulary=model.tokenizer,
        ngram=model_file(name, "ngram.npz"),
        beam=BeamOptions(**model.beam),
        calibration=model.calibration,
        default_decoder=model.writes_with,
        languages=("en",),
    )
    recogniser.compute_type = model.compute_type
    twin = SteppingDecoder(model.decoder) if model.compute_type == "int8" else model.decoder
    own = OWN if model.slots is None else ("dllm", *OWN)

    def make(kind: str, options: DecodeOptions) -> TextDecoder:
        if options.decoder_model:
            raise ValueError(f"decoder_model {options.decoder_model}: this recogniser brings its own text decoder")
        if kind not in own:
            raise ValueError(f"decoder {kind!r}: this model has {', '.join(own)}, greedy, beam")
        beam = replace(recogniser.beam, beam_size=options.beam_size)
        if kind == "dllm":
            denoising = DenoisingDecoder(model.denoiser, model.units, options.denoising, beam, lambda: recogniser.lm)
            return Guarded(denoising, model.units)
        hotwords = options.expected(model.tokenizer, kind)
        decoder = twin_decoder(kind, twin, model.units, beam, lambda: recogniser.lm, hotwords)
        return decoder if kind == "rescored" else Guarded(decoder, model.units)

    recogniser.makers = {kind: partial(make, kind) for kind in DECODERS}
    return recogniser
