"""From waveforms to utterances: one interface for the compact model and for any CTC model of transformers.

Both kinds of model give log-probabilities per frame; everything after that is shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from asr.compat import check_torchaudio
from asr.output.transcript import Word

check_torchaudio()  # before transformers, which fails in obscure ways when torchaudio does

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from asr import text_decoders  # noqa: E402
from asr.ar.greedy import Decoded  # noqa: E402
from asr.ar.rescoring import TextScorer  # noqa: E402
from asr.ctc.beam import BeamOptions, Hypothesis, best_path, prefix_beam  # noqa: E402
from asr.ctc.model import COMPACT, CTCModel  # noqa: E402
from asr.ctc.ngram import NGram  # noqa: E402
from asr.ctc.timing import align_words  # noqa: E402
from asr.dllm.loop import Denoised  # noqa: E402
from asr.hub import model_file  # noqa: E402
from asr.text.tokenizer import WORD_MARK  # noqa: E402
from asr.text_decoders import Listened, load_decoder  # noqa: E402

DECODERS = ("greedy", "beam", *text_decoders.DECODERS)


@dataclass(frozen=True)
class DecodeOptions:
    """How log-probabilities become text.

    Args:
        decoder: "greedy" takes the best token of each frame, "beam" searches prefixes, "dllm" denoises the CTC
            draft, "ar" is its autoregressive twin, "speculative" the twin verifying the draft, "fused" the
            twin's beam search with the n-gram, "rescored" the beam search whose texts the twin judges; by default the
            beam where the model brings a language model, greedy elsewhere.
        beam_size: prefixes kept by the beam search.
        word_timestamps: find the time and the confidence of each word as well.
        decoder_model: folder or Hub id of the decoder behind "dllm" or the twin; None: the compact one.
        denoising: choices of "dllm" (fields of `asr.text_decoders.DenoisingDecode`) other than the model's own.
    """

    decoder: str | None = None
    beam_size: int = 16
    word_timestamps: bool = True
    decoder_model: str | None = None
    denoising: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.decoder not in (None, *DECODERS):
            raise ValueError(f"decoder {self.decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
        if self.beam_size < 1:
            raise ValueError(f"beam_size is {self.beam_size}; it must be at least 1")


@dataclass(frozen=True)
class Utterance:
    """What one wave says; times of words are seconds from its start.

    `score_texts` gives log p(text | wave) of any texts, where the model can spell them.
    """

    text: str
    words: list[Word] = field(default_factory=list)
    score: float | None = None
    nbest: list[tuple[str, float]] = field(default_factory=list)
    score_texts: TextScorer | None = field(default=None, compare=False, repr=False)


class Recogniser(Protocol):
    """What `Transcriber` needs of a model."""

    sampling_rate: int  # Hz, of the waves it takes

    def transcribe_batch(self, waves: list[np.ndarray], options: DecodeOptions) -> list[Utterance]:
        """Utterances of waves [samples], in their order."""


class CTCRecogniser:
    """A model that gives log-probabilities [batch, frames, vocabulary] with the blank at index 0."""

    sampling_rate: int  # Hz
    hop_seconds: float | None  # seconds per frame; None: what the length of each wave comes to
    tokenizer: object  # decode(ids) -> text, starts_word(id), blank_id 0
    calibration: dict[str, tuple[float, float]] = {}  # of word confidence, by decoder; see asr.ctc.timing
    lm: NGram | None = None  # over the same vocabulary
    beam = BeamOptions(lm_weight=0.0, token_bonus=0.0)
    default_decoder = "greedy"

    def log_probabilities(self, waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of a batch and their lengths [batch] in frames."""
        raise NotImplementedError

    def listen(self, waves: list[np.ndarray]) -> Listened:
        """What the model makes of a batch, before decoding."""
        log_probs, lengths = self.log_probabilities(waves)
        return Listened.of(None, lengths, log_probs)

    def hypotheses(self, heard: Listened, decoder: str, options: DecodeOptions) -> list[list[Hypothesis]]:
        """Hypotheses of each utterance, best first.

        Raises:
            ValueError: the model has no such decoder.
        """
        if decoder == "greedy":
            return [[best_path(frames, self.tokenizer)] for frames in heard.posteriors]
        if decoder == "beam":
            beam = replace(self.beam, beam_size=options.beam_size)
            return [prefix_beam(frames, self.tokenizer, beam, self.lm) for frames in heard.posteriors]
        raise ValueError(f"decoder {decoder!r} needs a model of our own; this one has greedy and beam")

    @torch.inference_mode()
    def transcribe_batch(self, waves: list[np.ndarray], options: DecodeOptions) -> list[Utterance]:
        """Utterances of waves [samples], in their order."""
        heard = self.listen(waves)
        decoder = options.decoder or self.default_decoder
        nbests = self.hypotheses(heard, decoder, options)
        utterances = []
        for wave, frames, nbest in zip(waves, heard.posteriors, nbests, strict=True):
            best, words = nbest[0], []
            if options.word_timestamps:
                hop = self.hop_seconds or len(wave) / self.sampling_rate / len(frames)
                calibration = self.calibration.get(decoder, (1.0, 0.0))
                words = align_words(frames, best.tokens, self.tokenizer, hop, calibration, best.token_scores)
            rivals = [(hypothesis.text, hypothesis.score) for hypothesis in nbest]
            scorer = TextScorer(frames, self.tokenizer, lambda: self.lm) if hasattr(self.tokenizer, "encode") else None
            utterances.append(Utterance(best.text, words, best.score, rivals if len(rivals) > 1 else [], scorer))
        return utterances


class CompactRecogniser(CTCRecogniser):
    """Our own `asr.ctc.model.CTCModel`; without a name, the one that ships in the package."""

    sampling_rate = 16_000

    def __init__(self, name: str | Path | None = None, device: str = "cpu"):
        self.model = CTCModel.from_pretrained(name).to(device).eval()
        self.tokenizer = self.model.tokenizer
        self.hop_seconds = self.model.hop_seconds
        self.calibration = self.model.calibration
        self._ngram = model_file(name or COMPACT, "ngram.npz")
        if self._ngram:
            self.beam, self.default_decoder = BeamOptions(**self.model.beam), "beam"
        self.decoders: dict[tuple, Callable[[Listened], Decoded | Denoised]] = {}
        self.on_denoised: Callable[[Denoised], None] | None = None  # sees every pass of the denoiser

    @cached_property
    def lm(self) -> NGram | None:
        """The model's n-gram language model; read when the first beam search asks for it."""
        if self._ngram is None:
            return None
        lm = NGram.load(self._ngram)
        if lm.vocabulary != len(self.tokenizer):
            raise ValueError(f"{self._ngram}: {lm.vocabulary} tokens, but the model has {len(self.tokenizer)}; "
                             "estimate it with the model's own tokenizer (recipes.prepare ngram)")
        return lm

    @torch.inference_mode()
    def log_probabilities(self, waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        return self.model.encode_waves([torch.from_numpy(wave) for wave in waves])

    @torch.inference_mode()
    def listen(self, waves: list[np.ndarray]) -> Listened:
        features, lengths = self.model.log_mel([torch.from_numpy(wave) for wave in waves])
        device = self.model.head.weight.device
        hidden, _, lengths = self.model.encoder(features.to(device), lengths.to(device))
        return Listened.of(hidden, lengths, self.model.log_probabilities(hidden))

    def hypotheses(self, heard: Listened, decoder: str, options: DecodeOptions) -> list[list[Hypothesis]]:
        if decoder not in text_decoders.DECODERS:
            return super().hypotheses(heard, decoder, options)
        text_decoder = self.decoder(decoder, options)
        if decoder == "dllm":
            text_decoder.keep_trace = self.on_denoised is not None
        result = text_decoder(heard)
        if decoder == "dllm" and self.on_denoised:
            self.on_denoised(result)
        if getattr(result, "nbest", None):
            return result.nbest
        nbests = []
        for tokens, confidences in zip(result.tokens, result.confidences, strict=True):
            scores = [math.log(max(c, 1e-9)) for c in confidences]
            nbests.append([Hypothesis(tokens, self.tokenizer.decode(tokens), sum(scores), scores)])
        return nbests

    def decoder(self, name: str, options: DecodeOptions) -> Callable[[Listened], Decoded | Denoised]:
        """The text decoder that the options ask for; loaded once.

        Raises:
            ValueError: its vocabulary is not that of the recogniser.
        """
        key = (name, options.beam_size, options.decoder_model, tuple(sorted(options.denoising.items())))
        if key not in self.decoders:
            device = self.model.head.weight.device
            beam = replace(self.beam, beam_size=options.beam_size)
            self.decoders[key] = load_decoder(
                name, device, options.decoder_model, self.tokenizer, options.denoising, beam, lambda: self.lm
            )
        return self.decoders[key]


class HFRecogniser(CTCRecogniser):
    """Any CTC model of transformers (wav2vec2, HuBERT, WavLM, Parakeet-CTC ...), local folder or Hub id."""

    def __init__(self, name: str | Path, device: str = "cpu"):
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        self.extractor = AutoFeatureExtractor.from_pretrained(name)
        self.model = AutoModelForCTC.from_pretrained(name).to(device).eval()
        self.sampling_rate = self.extractor.sampling_rate
        config = self.model.config
        self.hop_seconds = getattr(config, "inputs_to_logits_ratio", 0) / self.sampling_rate or None
        self.order = [config.pad_token_id, *(i for i in range(config.vocab_size) if i != config.pad_token_id)]
        self.tokenizer = PieceTokenizer(AutoTokenizer.from_pretrained(name), self.order)

    def log_probabilities(self, waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        inputs = self.extractor(waves, sampling_rate=self.sampling_rate, return_tensors="pt", padding=True)
        log_probs = self.model(**inputs.to(self.model.device)).logits.float().log_softmax(-1)[..., self.order]
        # Frames per sample are the same throughout a batch, up to one at the border.
        ratio = log_probs.shape[1] / max(len(wave) for wave in waves)
        return log_probs, torch.tensor([max(1, round(ratio * len(wave))) for wave in waves])


class PieceTokenizer:
    """The vocabulary of a transformers tokenizer, the blank first, as pieces with word marks."""

    blank_id = 0

    def __init__(self, tokenizer, order: list[int]):
        special = {*tokenizer.all_special_ids, order[self.blank_id]}
        delimiter = getattr(tokenizer, "word_delimiter_token", None)  # of wav2vec2 and its kin
        pieces = [tokenizer.convert_ids_to_tokens(i) or "" for i in order]
        self.pieces = [
            WORD_MARK if piece == delimiter else "" if i in special else piece
            for i, piece in zip(order, pieces, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.pieces)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are skipped."""
        return " ".join("".join(self.pieces[i] for i in ids).replace(WORD_MARK, " ").split())

    def starts_word(self, token: int) -> bool:
        return self.pieces[token].startswith(WORD_MARK)
