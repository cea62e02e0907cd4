"""From waveforms to utterances: one recogniser for every combination of encoder, CTC branch and text decoders.

The parts have protocols (`asr.parts`); which folder has which is known in `asr.loading`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from asr.compat import check_torchaudio
from asr.output.transcript import Word

check_torchaudio()  # before transformers, which fails in obscure ways when torchaudio does

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from asr.ar.rescoring import TextScorer  # noqa: E402
from asr.ctc.beam import BeamOptions, Hypothesis, best_path, prefix_beam  # noqa: E402
from asr.ctc.ngram import NGram  # noqa: E402
from asr.ctc.timing import align_text, align_words  # noqa: E402
from asr.decoders import DECODERS as TEXT_DECODERS  # noqa: E402
from asr.parts import CTCBranch, Decoded, Listened, SpeechEncoder, TextDecoder, Vocabulary  # noqa: E402
from asr.text.hotwords import STRENGTH, Hotwords  # noqa: E402

DECODERS = ("greedy", "beam", *TEXT_DECODERS)


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
        decoder_model: folder or Hub id of the denoiser or twin of a `CTCModel`; other models bring their own.
        denoising: choices of "dllm" (fields of `asr.dllm.choices.DenoisingDecode`) other than the model's own.
        language: code of the spoken language, for multilingual models; None lets the model find out.
        task: "transcribe", or "translate" into English.
        initial_prompt: text that a Whisper model takes for what was said before: names, spelling, style.
        temperature: above 0 a model that writes token by token draws its tokens.
        hotwords: words and phrases to expect, such as names (`asr.text.hotwords`); with the beam and the twin.
        hotword_strength: nats that a token of these earns; None: what was measured to be good for the decoder.
    """

    decoder: str | None = None
    beam_size: int = 16
    word_timestamps: bool = True
    decoder_model: str | None = None
    denoising: dict = field(default_factory=dict)
    language: str | None = None
    task: str = "transcribe"
    initial_prompt: str | None = None
    temperature: float = 0.0
    hotwords: tuple[str, ...] = ()
    hotword_strength: float | None = None

    def __post_init__(self):
        if self.task not in ("transcribe", "translate"):
            raise ValueError(f"task is {self.task!r}; choose transcribe or translate")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be at least 0")
        if self.decoder not in (None, *DECODERS):
            raise ValueError(f"decoder {self.decoder!r} is unknown; choose one of {', '.join(DECODERS)}")
        if self.beam_size < 1:
            raise ValueError(f"beam_size is {self.beam_size}; it must be at least 1")
        if self.hotword_strength is not None and self.hotword_strength < 0:
            raise ValueError(f"hotword_strength is {self.hotword_strength}; it must be at least 0")

    def expected(self, vocabulary: Vocabulary, decoder: str) -> Hotwords | None:
        """The hotwords in the tokens of a vocabulary; None where there are none.

        Raises:
            ValueError: the vocabulary cannot spell them.
        """
        if not self.hotwords:
            return None
        strength = STRENGTH[decoder] if self.hotword_strength is None else self.hotword_strength
        return Hotwords(self.hotwords, vocabulary, strength)


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

    def prepare(self, options: DecodeOptions) -> None:
        """Load what the options ask for. Raises ValueError or OSError where that cannot be."""

    def transcribe_batch(self, waves: list[np.ndarray], options: DecodeOptions) -> list[Utterance]:
        """Utterances of waves [samples], in their order."""


class Reloadable:
    """A recogniser that goes to another process as the call that loaded it, and reads its weights there anew.

    There it computes as here, also where the number format was chosen by trying.
    """

    compute_type: str | None = None
    loaded_by: partial | None = None

    def __reduce__(self):
        if self.loaded_by is None:
            raise TypeError("a recogniser built by hand cannot be pickled: save it and load it with load_recogniser")
        return self.loaded_by.func, self.loaded_by.args


class SpeechRecogniser(Reloadable):
    """A recogniser made of parts.

    Args:
        encoder: waves to frames.
        branch: frames to log-probabilities over CTC units.
        vocabulary: what its text decoders write in; None: the units of the branch.
        ngram: file of the n-gram over those units; read when the first search asks for it.
        beam: options of the prefix beam search.
        calibration: slope and offset of word confidence by decoder, see `asr.ctc.timing`.
        default_decoder: of `DecodeOptions` that name none.
        languages: codes of those that it knows; none: it does not say.

    `makers` holds the text decoders by name: functions of the options, called once for each of them.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        branch: CTCBranch,
        *,
        vocabulary: Vocabulary | None = None,
        ngram: Path | None = None,
        beam: BeamOptions | None = None,
        calibration: dict[str, tuple[float, float]] | None = None,
        default_decoder: str = "greedy",
        languages: tuple[str, ...] = (),
    ):
        self.encoder, self.branch = encoder, branch
        self.sampling_rate, self.hop_seconds = encoder.sampling_rate, branch.hop_seconds
        self.tokenizer = branch.tokenizer
        self.vocabulary = vocabulary or self.tokenizer
        self.beam = beam or BeamOptions(lm_weight=0.0, token_bonus=0.0)
        self.calibration = calibration or {}
        self.default_decoder, self.languages = default_decoder, languages
        self.makers: dict[str, Callable[[DecodeOptions], TextDecoder]] = {}
        self.decoders: dict[tuple, TextDecoder] = {}
        self.on_denoised: Callable | None = None  # sees every pass of the denoiser
        self._ngram = ngram
        self._hotwords: dict[tuple, Hotwords | None] = {}

    @cached_property
    def lm(self) -> NGram | None:
        """The n-gram language model, where there is one.

        Raises:
            ValueError: it is over another vocabulary.
        """
        if self._ngram is None:
            return None
        lm = NGram.load(self._ngram)
        if lm.vocabulary != len(self.tokenizer):
            raise ValueError(f"{self._ngram}: {lm.vocabulary} tokens, but the model has {len(self.tokenizer)}; "
                             "estimate it with the model's own tokenizer (recipes.prepare ngram)")
        return lm

    def prepare(self, options: DecodeOptions) -> None:
        """Load what the options ask for, so that mistakes show before any audio is read.

        Raises:
            ValueError: the model has no such decoder, or the decoder is not for this model, or cannot be told what the
                options say.
            OSError: there is no model behind the decoder.
        """
        if self.languages and options.language not in (None, *self.languages):
            raise ValueError(f"language is {options.language!r}; this model knows {', '.join(self.languages)}")
        told = {"task translate": options.task == "translate", "initial_prompt": options.initial_prompt,
                "temperature": options.temperature}  # fmt: skip
        for name in (name for name, value in told.items() if value):
            raise ValueError(f"{name}: needs a model like Whisper; this one cannot be told it")
        decoder = self.chosen(options)
        if options.hotwords and decoder not in STRENGTH:
            raise ValueError(f"hotwords: decoder {decoder!r} cannot be told names; {' and '.join(STRENGTH)} can")
        if decoder == "beam":
            self.expected(options)
        elif decoder != "greedy":
            self.decoder(decoder, options)

    def chosen(self, options: DecodeOptions) -> str:
        """The name of the decoder: what the options name, else the model's own; names need a search."""
        default = "beam" if options.hotwords and self.default_decoder == "greedy" else self.default_decoder
        return options.decoder or default

    def expected(self, options: DecodeOptions) -> Hotwords | None:
        """The hotwords of the beam search; made once."""
        key = options.hotwords, options.hotword_strength
        if key not in self._hotwords:
            self._hotwords = {key: options.expected(self.tokenizer, "beam")}
        return self._hotwords[key]

    # -- listening -----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def listen(self, waves: list[np.ndarray]) -> Listened:
        """What encoder and CTC branch make of a batch, before decoding."""
        encoded = self.encoder(waves)
        return Listened.of(encoded.hidden, encoded.lengths, *self.branch(encoded))

    @torch.inference_mode()
    def log_probabilities(self, waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Log-probabilities [batch, frames, units] of a batch and their lengths [batch] in frames."""
        return self.branch(self.encoder(waves))

    # -- decoding ------------------------------------------------------------------------------------------

    def hypotheses(self, heard: Listened, decoder: str, options: DecodeOptions) -> list[list[Hypothesis]]:
        """Hypotheses of each utterance, best first.

        Raises:
            ValueError: the model has no such decoder.
        """
        return self._decoded(heard, decoder, options)[0]

    def decoder(self, name: str, options: DecodeOptions) -> TextDecoder:
        """The text decoder that the options ask for; made once.

        Raises:
            ValueError: the recogniser has none of that name, or it does not fit.
        """
        if name not in self.makers:
            raise ValueError(f"decoder {name!r} needs a model of our own; this one has greedy and beam")
        key = (name, options.beam_size, options.decoder_model, tuple(sorted(options.denoising.items())),
               options.hotwords, options.hotword_strength)  # fmt: skip
        if key not in self.decoders:
            self.decoders[key] = self.makers[name](options)
        return self.decoders[key]

    def _decoded(
        self, heard: Listened, decoder: str, options: DecodeOptions
    ) -> tuple[list[list[Hypothesis]], Vocabulary]:
        """Hypotheses of each utterance, and the vocabulary of their tokens."""
        if decoder == "greedy":
            return [[best_path(frames, self.tokenizer)] for frames in heard.posteriors], self.tokenizer
        if decoder == "beam":
            beam, names = replace(self.beam, beam_size=options.beam_size), self.expected(options)
            return [prefix_beam(f, self.tokenizer, beam, self.lm, names) for f in heard.posteriors], self.tokenizer
        text_decoder = self.decoder(decoder, options)
        if decoder == "dllm":
            text_decoder.keep_trace = self.on_denoised is not None
        result = text_decoder(heard)
        if decoder == "dllm" and self.on_denoised:
            self.on_denoised(result)
        vocabulary = text_decoder.vocabulary
        return getattr(result, "nbest", None) or _single(result, vocabulary), vocabulary

    @torch.inference_mode()
    def transcribe_batch(self, waves: list[np.ndarray], options: DecodeOptions) -> list[Utterance]:
        """Utterances of waves [samples], in their order."""
        heard = self.listen(waves)
        decoder = self.chosen(options)
        nbests, vocabulary = self._decoded(heard, decoder, options)
        spells = hasattr(self.tokenizer, "encode")
        utterances = []
        for wave, frames, nbest in zip(waves, heard.posteriors, nbests, strict=True):
            best, words = nbest[0], []
            if options.word_timestamps:
                hop = self.hop_seconds or len(wave) / self.sampling_rate / len(frames)
                words = self._words(frames, best, vocabulary, hop, self.calibration.get(decoder, (1.0, 0.0)))
            rivals = [(hypothesis.text, hypothesis.score) for hypothesis in nbest]
            scorer = TextScorer(frames, self.tokenizer, lambda: self.lm) if spells else None
            utterances.append(Utterance(best.text, words, best.score, rivals if len(rivals) > 1 else [], scorer))
        return utterances

    def _words(
        self, frames: Tensor, best: Hypothesis, vocabulary: Vocabulary, hop: float, calibration: tuple[float, float]
    ) -> list[Word]:
        """Words with times from the CTC branch and confidences from whoever wrote them."""
        if vocabulary is not self.vocabulary or vocabulary is self.tokenizer:  # the tokens are CTC units
            return align_words(frames, best.tokens, self.tokenizer, hop, calibration, best.token_scores)
        scores = word_scores(best, vocabulary)
        return align_text(frames, best.text, self.tokenizer, hop, calibration, scores)


def _single(result: Decoded, vocabulary: Vocabulary) -> list[list[Hypothesis]]:
    """The one text of each utterance as a list of hypotheses."""
    nbests = []
    for tokens, confidences in zip(result.tokens, result.confidences, strict=True):
        scores = [math.log(max(c, 1e-9)) for c in confidences]
        nbests.append([Hypothesis(tokens, vocabulary.decode(tokens), sum(scores), scores)])
    return nbests


def word_scores(hypothesis: Hypothesis, vocabulary: Vocabulary) -> list[float] | None:
    """Log-probability of each word, that of its least sure token; None where tokens do not tell."""
    if not hypothesis.token_scores:
        return None
    groups: list[list[float]] = []
    for token, score in zip(hypothesis.tokens, hypothesis.token_scores, strict=True):
        if not groups or vocabulary.starts_word(token):
            groups.append([])
        groups[-1].append(score)
    return [min(group) for group in groups] if len(groups) == len(hypothesis.text.split()) else None
