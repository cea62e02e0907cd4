"""Decoders that write text from the encoder's output: denoising (dLLM-ASR), its autoregressive twin (writing,
verifying the draft, searching with the n-gram, judging the beam search's texts).

All take what the encoder made of a batch (`Listened`) and give tokens with confidences. They are chosen by name
(`DECODERS`) and by the fields of `DenoisingDecode`, so every ablation of the paper is a line of configuration.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.ar.fused_search import FusionOptions, search_tokens
from asr.ar.greedy import Decoded, decode_greedily, decode_speculatively, score_sequences
from asr.ctc.beam import BeamOptions, Hypothesis, prefix_beam
from asr.ctc.ngram import NGram
from asr.dllm.caches import SpeechMemory
from asr.dllm.canvas import BLANK, Canvas, CanvasOptions, Draft, aligned_draft, ctc_draft, lay_out
from asr.dllm.commit import commit_rule
from asr.dllm.loop import END, MASK, NULL, Denoised, DenoisingOptions, SpecialTokens, allowed_log_probabilities, denoise
from asr.dllm.network import COMPACT_DENOISER, COMPACT_TWIN, Denoiser
from asr.dllm.slot_search import SlotSearchOptions, search_slots
from asr.text.tokenizer import Tokenizer

DECODERS = ("dllm", "ar", "speculative", "fused", "rescored")
PRIORS = ("ctc", "beam", "none")
SEARCHES = ("none", "ngram")
SETTLED = -100.0  # log-probability that a token which the draft has settled is another


@dataclass
class Listened:
    """A batch after the encoder: hidden [batch, frames, width] (None where a model keeps it to itself), its lengths
    [batch], and for each utterance the CTC log-probabilities [frames, vocabulary]."""

    hidden: Tensor | None
    lengths: Tensor
    posteriors: list[Tensor]

    @classmethod
    def of(cls, hidden: Tensor | None, lengths: Tensor, log_probabilities: Tensor) -> Listened:
        """From padded CTC log-probabilities [batch, frames, vocabulary], which are cut to their lengths."""
        frames = log_probabilities.detach().cpu()
        return cls(hidden, lengths, [f[:n] for f, n in zip(frames, lengths.tolist(), strict=True)])

    def padded_posteriors(self) -> Tensor:
        """Log-probabilities [batch, frames, vocabulary] beside `hidden`, padded with zeros."""
        return pad_sequence(self.posteriors, batch_first=True).to(self.hidden.device)


@dataclass(frozen=True)
class DenoisingDecode:
    """Every choice of denoising decoding; the compact denoiser brings the defaults that dev shows to be best.

    Args:
        prior: "ctc" lays the greedy CTC draft on the canvas, "beam" the beam search's, "none" starts from masks.
        threshold, slots, slack, slack_least, blank_penalty: of `asr.dllm.canvas.CanvasOptions`.
        length: slots of a canvas without a prior.
        commit: rule by name, see `asr.dllm.commit.commit_rule`.
        pruning, early_exit, speech_cache, elastic, max_passes: of `asr.dllm.loop.DenoisingOptions`.
        search: "ngram" makes one pass and searches its slots with the recogniser's n-gram (`asr.dllm.slot_search`);
            "none" settles them as the paper does.
        beam_size, lm_weight, token_bonus: of `asr.dllm.slot_search.SlotSearchOptions`.
    """

    prior: str = "ctc"
    threshold: float = 0.9
    slots: bool = True
    slack: float = 0.1
    slack_least: int = 4
    blank_penalty: float = 0.0
    length: int = 192
    commit: str = "threshold:0.9"
    pruning: str = "first"
    early_exit: bool = True
    speech_cache: bool = True
    elastic: float | None = None
    max_passes: int = 8
    search: str = "none"
    beam_size: int = 16
    lm_weight: float = 0.8
    token_bonus: float = 3.6

    def __post_init__(self):
        if self.search not in SEARCHES:
            raise ValueError(f"search is {self.search!r}; choose one of {', '.join(SEARCHES)}")
        if self.prior not in PRIORS:
            raise ValueError(f"prior is {self.prior!r}; choose one of {', '.join(PRIORS)}")
        if not self.commit.startswith("learned"):  # whose filter is known only with the denoiser
            commit_rule(self.commit)

    def part(self, kind: type, **extra):
        """The fields that belong to another options class."""
        names = {f.name for f in dataclasses.fields(kind)} - set(extra)
        values = {name: value for name, value in dataclasses.asdict(self).items() if name in names}
        return kind(**values, **extra)


def parse_choices(pairs: list[str]) -> dict:
    """Fields of `DenoisingDecode` from texts such as "prior=none" or "early_exit=false".

    Raises:
        ValueError: not KEY=VALUE, an unknown key, or a value of the wrong kind.
    """
    kinds = {f.name: f.type for f in dataclasses.fields(DenoisingDecode)}
    choices = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in kinds:
            raise ValueError(f"{pair!r} is not KEY=VALUE with a KEY of {', '.join(kinds)}")
        try:
            parsed = value if kinds[key] == "str" else json.loads(value.lower().replace("none", "null"))
        except json.JSONDecodeError:
            raise ValueError(f"{pair!r}: the value must be of type {kinds[key]}") from None
        wanted = {"bool": bool, "int": int, "str": str}.get(kinds[key], (float, int, type(None)))
        if not isinstance(parsed, wanted) or (isinstance(parsed, bool) and kinds[key] != "bool"):
            raise ValueError(f"{pair!r}: the value must be of type {kinds[key]}")
        choices[key] = parsed
    DenoisingDecode(**choices)
    return choices


class DenoisingDecoder:
    """dLLM-ASR at compact size: the draft on a canvas, denoised in a few passes.

    Args:
        denoiser: the model.
        tokenizer: its vocabulary.
        choices: fields of `DenoisingDecode` other than the model's own.
        beam, lm: options and language model (given when called) of the "beam" prior.
        filter_folder: trained filter for the commit rule "learned".
    """

    def __init__(
        self,
        denoiser: Denoiser,
        tokenizer: Tokenizer,
        choices: dict | None = None,
        beam: BeamOptions | None = None,
        lm: Callable[[], NGram | None] = lambda: None,
        filter_folder: str | Path | None = None,
    ):
        self.denoiser, self.tokenizer = denoiser.eval(), tokenizer
        self.choices = DenoisingDecode(**{**denoiser.decode, **(choices or {})})
        self.canvas_options = self.choices.part(CanvasOptions)
        self.options = self.choices.part(DenoisingOptions, commit=commit_rule(self.choices.commit, filter_folder))
        # Without empty slots every mask must become a token.
        self.special = SpecialTokens() if self.choices.slots else SpecialTokens(null=None, never=(BLANK, MASK, NULL))
        self.beam, self.lm = beam, lm
        self.keep_trace = False

    def drafts(self, posteriors: list[Tensor]) -> list[Draft]:
        """The prior of each utterance."""
        if self.choices.prior == "ctc":
            return [ctc_draft(frames, self.choices.blank_penalty) for frames in posteriors]
        return [self._searched(frames) for frames in posteriors]

    def _searched(self, frames: Tensor) -> Draft:
        for hypothesis in prefix_beam(frames, self.tokenizer, self.beam, self.lm()):
            try:
                return aligned_draft(frames, hypothesis.tokens)
            except ValueError:  # longer than the speech: the next best
                continue
        return ctc_draft(frames)

    def canvas(self, drafts: list[Draft] | None, batch: int) -> Canvas:
        """The canvas of each utterance; without drafts, masks only."""
        if drafts is None:
            return Canvas.empty([self.choices.length] * batch, MASK)
        return Canvas.of([lay_out(draft, self.canvas_options, MASK) for draft in drafts], pad=END)

    @torch.inference_mode()
    def __call__(self, heard: Listened) -> Denoised:
        """Tokens and confidences of a batch."""
        drafts = None if self.choices.prior == "none" else self.drafts(heard.posteriors)
        canvas = self.canvas(drafts, len(heard.posteriors)).to(heard.hidden.device)
        speech = partial(self.denoiser.remember, heard.hidden, heard.lengths, heard.padded_posteriors())
        if self.choices.search == "ngram":
            return self._search(speech(), canvas)
        return denoise(self.denoiser, speech, canvas, self.options, self.special, self.keep_trace)

    def _search(self, speech: SpeechMemory, canvas: Canvas) -> Denoised:
        """One pass over the canvas, then the texts that denoiser and n-gram like best together."""
        lm = self.lm()
        if lm is None:
            raise ValueError("search=ngram needs a recogniser with a language model (ngram.npz); this one has none")
        may_end = canvas.may_end()
        logits = self.denoiser.denoise(canvas.tokens, speech, canvas.times, canvas.valid)
        scores = allowed_log_probabilities(logits, may_end, self.special)
        settled = (canvas.tokens != MASK).unsqueeze(-1)
        given = torch.full_like(scores, SETTLED).scatter(-1, canvas.tokens.unsqueeze(-1), 0.0)
        scores = torch.where(settled, given, scores)
        empty = torch.where(may_end, scores[..., END], scores[..., NULL])
        options = self.choices.part(SlotSearchOptions)
        nbest = [
            search_slots(row[:n].numpy(), nothing[:n].numpy(), self.tokenizer, lm, options)
            for row, nothing, n in zip(scores.cpu(), empty.cpu(), canvas.valid.sum(1).tolist(), strict=True)
        ]
        tokens = [hypotheses[0].tokens for hypotheses in nbest]
        ones, slots = torch.ones(len(nbest), dtype=torch.long), canvas.valid.sum(1).cpu()
        return Denoised(tokens, [[] for _ in nbest], ones, slots, canvas.tokens, nbest=nbest)


def _speech_of(twin: Denoiser, heard: Listened, i: int) -> SpeechMemory:
    """The speech cache of one utterance of a batch."""
    length = heard.lengths[i : i + 1]
    return twin.remember(heard.hidden[i : i + 1, : int(length)], length)


@dataclass
class TwinDecoder:
    """The autoregressive twin, plain or verifying the CTC draft."""

    twin: Denoiser
    speculative: bool = False

    @torch.inference_mode()
    def __call__(self, heard: Listened) -> Decoded:
        self.twin.eval()
        if not self.speculative:
            return decode_greedily(self.twin, self.twin.remember(heard.hidden, heard.lengths))
        parts = [self._verify(heard, i) for i in range(len(heard.posteriors))]
        return Decoded(
            [p.tokens[0] for p in parts],
            [p.confidences[0] for p in parts],
            torch.cat([p.passes for p in parts]),
            torch.cat([p.token_forwards for p in parts]),
        )

    def _verify(self, heard: Listened, i: int) -> Decoded:
        speech = _speech_of(self.twin, heard, i)
        return decode_speculatively(self.twin, speech, ctc_draft(heard.posteriors[i]).tokens)


@dataclass
class FusedTwin:
    """The autoregressive twin's beam search with the recogniser's n-gram (`asr.ar.fused_search`)."""

    twin: Denoiser
    tokenizer: Tokenizer
    lm: Callable[[], NGram | None]
    options: FusionOptions = FusionOptions()

    @torch.inference_mode()
    def __call__(self, heard: Listened) -> Decoded:
        lm = self.lm()
        if lm is None:
            raise ValueError("decoder 'fused' needs a recogniser with a language model (ngram.npz); this one has none")
        speeches = [_speech_of(self.twin, heard, i) for i in range(len(heard.posteriors))]
        found = [search_tokens(self.twin, speech, self.tokenizer, lm, self.options) for speech in speeches]
        nbest, passes = [texts for texts, _ in found], torch.tensor([n for _, n in found])
        forwards = passes * self.options.beam_size
        return Decoded([texts[0].tokens for texts in nbest], [[] for _ in nbest], passes, forwards, nbest)


@dataclass
class RescoredBeam:
    """The recogniser's beam search with its n-gram; the twin then judges all its texts in one parallel pass.

    The two-pass decoding of U2 (Zhang et al. 2020, arXiv 2012.05481, Sec. 3.3): log-probability of the search plus
    `weight` times that of the twin.
    """

    twin: Denoiser
    tokenizer: Tokenizer
    beam: BeamOptions
    lm: Callable[[], NGram | None]
    weight: float = 0.5

    @torch.inference_mode()
    def __call__(self, heard: Listened) -> Decoded:
        nbest = [self._judged(heard, i) for i in range(len(heard.posteriors))]
        judged = torch.tensor([sum(len(h.tokens) + 1 for h in hypotheses) for hypotheses in nbest])
        return Decoded([h[0].tokens for h in nbest], [[] for _ in nbest], torch.ones_like(judged), judged, nbest)

    def _judged(self, heard: Listened, i: int) -> list[Hypothesis]:
        """The beam's hypotheses of one utterance, best first."""
        found = prefix_beam(heard.posteriors[i], self.tokenizer, self.beam, self.lm())
        speech = _speech_of(self.twin, heard, i)
        scores = score_sequences(self.twin, speech, [h.tokens for h in found]).tolist()
        judged = [dataclasses.replace(h, score=h.score + self.weight * s) for h, s in zip(found, scores, strict=True)]
        return sorted(judged, key=lambda hypothesis: -hypothesis.score)


def load_decoder(
    name: str,
    device: torch.device | str,
    model: str | Path | None,
    tokenizer: Tokenizer,
    choices: dict | None = None,
    beam: BeamOptions | None = None,
    lm: Callable[[], NGram | None] = lambda: None,
) -> DenoisingDecoder | TwinDecoder | FusedTwin | RescoredBeam:
    """A decoder by name, with the weights of a folder or Hub id, or the compact ones (None).

    Raises:
        ValueError: there is no decoder of that name, or its vocabulary is not `tokenizer`.
    """
    if name not in DECODERS:
        raise ValueError(f"decoder {name!r} is unknown; choose one of {', '.join(DECODERS)}")
    compact = COMPACT_DENOISER if name == "dllm" else COMPACT_TWIN
    folder = model or compact
    network = Denoiser.from_pretrained(folder).to(device).eval()
    if network.tokenizer_definition and network.tokenizer_definition != tokenizer.definition:
        raise ValueError(f"{folder}: has another vocabulary than the recogniser; train it on this recogniser's encoder")
    if name == "rescored":
        return RescoredBeam(network, tokenizer, beam or BeamOptions(), lm, **network.decode)
    if name == "fused":
        return FusedTwin(network, tokenizer, lm)
    if name != "dllm":
        return TwinDecoder(network, name == "speculative")
    filter_folder = Path(folder) / "filter"
    return DenoisingDecoder(network, tokenizer, choices, beam, lm, filter_folder if filter_folder.is_dir() else None)
