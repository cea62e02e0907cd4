"""The canvas: what the denoiser writes on, laid out from a draft of the text (the prior).

dLLM-ASR (arXiv 2601.17902) starts denoising from the hypothesis of a CTC branch instead of from masks alone. Here
a token of the draft stays where the CTC posterior is sure of it and becomes a mask elsewhere (Mask-CTC, Higuchi et
al. 2020). A masked token may turn out to be several or none: beside it stand slots that may stay empty (`<null>`),
and behind the draft a slack of masks that ends in `<end>`.

    draft    the(0.99)  cat(0.42)  sat(0.97)
    canvas   the  _ [cat] _  sat  _ _ _ _        _ and [cat] are masks; the last four are slack
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from asr.ctc.timing import align_tokens
from asr.text.tokenizer import Tokenizer

BLANK = 0
LAYOUTS = ("order", "time")


@dataclass(frozen=True)
class Draft:
    """A hypothesis to start from: tokens, the confidence (0..1) and the time (encoder frame) of each."""

    tokens: list[int]
    confidences: list[float]
    times: list[float]
    frames: int  # encoder frames of the utterance


def ctc_draft(log_probabilities: Tensor, blank_penalty: float = 0.0) -> Draft:
    """The greedy CTC path of log_probabilities [frames, vocabulary] as a draft.

    The confidence of a token is the highest posterior inside its run of frames (Mask-CTC, Sec. 3.2).

    Args:
        blank_penalty: nats taken off the blank, so that faint tokens enter the draft too (to be masked).
    """
    scores = log_probabilities
    if blank_penalty:
        scores = scores.clone()
        scores[:, BLANK] -= blank_penalty
    path = scores.argmax(-1)
    chosen = log_probabilities.gather(1, path[:, None]).squeeze(1).exp().tolist()
    tokens, confidences, times, before = [], [], [], BLANK
    for frame, (token, confidence) in enumerate(zip(path.tolist(), chosen, strict=True)):
        if token != BLANK and token != before:
            tokens.append(token)
            confidences.append(confidence)
            times.append(float(frame))
        elif token != BLANK and confidence > confidences[-1]:
            confidences[-1], times[-1] = confidence, float(frame)
        before = token
    return Draft(tokens, confidences, times, len(path))


def draft_words(draft: Draft, units: Tokenizer) -> list[tuple[str, float, float]]:
    """Text, confidence and time of each word of a draft in CTC units."""
    groups: list[list[int]] = []
    for i, token in enumerate(draft.tokens):
        if not groups or units.starts_word(token):
            groups.append([])
        groups[-1].append(i)
    words = []
    for group in groups:
        text = units.decode([draft.tokens[i] for i in group])
        if text:
            words.append((text, min(draft.confidences[i] for i in group), draft.times[group[0]]))
    return words


def aligned_draft(log_probabilities: Tensor, tokens: list[int]) -> Draft:
    """Any token sequence as a draft, with confidences and times from its best CTC alignment.

    Raises:
        ValueError: the tokens do not fit into the frames.
    """
    spans = align_tokens(log_probabilities, tokens)
    times = [(start + end - 1) / 2 for start, end, _ in spans]
    return Draft(list(tokens), [math.exp(score) for *_, score in spans], times, len(log_probabilities))


@dataclass(frozen=True)
class CanvasOptions:
    """How a draft becomes a canvas.

    Args:
        threshold: tokens of the draft below this confidence are masked; 0 keeps all, 1 masks all.
        slots: put empty slots (`<null>`) around masked tokens, so that words can be inserted and deleted.
        slack: slack masks behind the draft, as a share of its tokens ...
        slack_least: ... and at least so many.
        blank_penalty: of `ctc_draft`.
        layout: "order" puts slots beside masked tokens, as above; "time" wherever there is time for a word
            (`asr.dllm.slots`).
        hop: frames of the draft to an empty slot of the layout "time".
        guesses: an open slot shows what the draft and later the last pass has there, with its probability, to a
            denoiser that reads it (`reads_guesses`); off, it shows nothing.
    """

    threshold: float = 0.9
    slots: bool = True
    slack: float = 0.1
    slack_least: int = 4
    blank_penalty: float = 0.0
    layout: str = "order"
    hop: float = 4.0
    guesses: bool = True

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}; choose one of {', '.join(LAYOUTS)}")
        if self.layout == "time" and not self.slots:
            raise ValueError("layout is 'time' and slots is False; in time some slots stay empty: choose layout=order")
        if self.hop <= 0:
            raise ValueError(f"hop is {self.hop} frames; it must be above 0")
        if self.threshold < 0:
            raise ValueError(f"threshold is {self.threshold}; a probability from 0 on (above 1 masks every token)")
        if self.slack < 0 or self.slack_least < 0:
            raise ValueError(f"slack is {self.slack} and slack_least {self.slack_least}; neither may be negative")


@dataclass
class Layout:
    """A canvas of one utterance before it is a tensor.

    `sources[i]` is the draft token slot i stands for; for an empty slot the draft token it stands before (of which
    it is a `gap`), and the number of draft tokens for the slack.
    """

    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    gaps: list[bool] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    tail: int = 0  # first slot of the slack: only from here on may the text end

    def add(self, token: int, time: float, source: int, gap: bool, confidence: float = 0.0) -> None:
        self.tokens.append(token)
        self.times.append(time)
        self.sources.append(source)
        self.gaps.append(gap)
        self.confidences.append(confidence)


def lay_out(draft: Draft, options: CanvasOptions, mask: int) -> Layout:
    """Slots of a draft; `mask` is the id of the mask token."""
    layout = Layout()
    total = len(draft.tokens)
    is_open = [confidence < options.threshold for confidence in draft.confidences]
    for i, (token, confidence, time) in enumerate(zip(draft.tokens, draft.confidences, draft.times, strict=True)):
        beside_open = is_open[i] or (i > 0 and is_open[i - 1])
        if options.slots and beside_open:
            layout.add(mask, time if i == 0 else (draft.times[i - 1] + time) / 2, i, gap=True)
        layout.add(mask if is_open[i] else token, time, i, gap=False, confidence=0.0 if is_open[i] else confidence)
    layout.tail = len(layout.tokens)
    last = draft.times[-1] if total else 0.0
    slack = max(options.slack_least, math.ceil(options.slack * total))
    for i in range(slack):
        time = last + (draft.frames - 1 - last) * (i + 1) / (slack + 1)
        layout.add(mask, time, total, gap=True)
    return layout


@dataclass
class Canvas:
    """Canvases of a batch.

    Attributes:
        tokens: [batch, n]; masks are what is to be found.
        times: [batch, n] expected time of each slot in encoder frames, or None: evenly spaced.
        valid: [batch, n], False where a row is padded.
        tail: [batch] first slot at which the text may end; before it `<null>` is allowed instead.
        confidences: [batch, n] of tokens taken from the draft, 0 elsewhere.
        guesses: [batch, n] what an open slot shows to a denoiser that reads it, or None.
        sure: [batch, n] how probable each guess is, or None.
    """

    tokens: Tensor
    times: Tensor | None
    valid: Tensor
    tail: Tensor
    confidences: Tensor
    guesses: Tensor | None = None
    sure: Tensor | None = None

    @classmethod
    def of(cls, layouts: list[Layout], pad: int) -> Canvas:
        """Pad layouts with the token `pad`."""
        lengths = torch.tensor([len(layout.tokens) for layout in layouts])

        def padded(rows: list[list], value: float, kind: torch.dtype) -> Tensor:
            width = int(lengths.max())
            return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=kind)

        return cls(
            padded([layout.tokens for layout in layouts], pad, torch.long),
            padded([layout.times for layout in layouts], 0.0, torch.float),
            torch.arange(int(lengths.max())) < lengths[:, None],
            torch.tensor([layout.tail for layout in layouts]),
            padded([layout.confidences for layout in layouts], 0.0, torch.float),
        )

    @classmethod
    def empty(cls, lengths: list[int], mask: int) -> Canvas:
        """Masks only, as many as `lengths` says for each utterance; the text may end anywhere."""
        sizes = torch.tensor(lengths)
        valid = torch.arange(max(lengths)) < sizes[:, None]
        tokens = torch.full(valid.shape, mask)
        return cls(tokens, None, valid, torch.zeros(len(lengths), dtype=torch.long), torch.zeros(valid.shape))

    def may_end(self) -> Tensor:
        """[batch, n], True where the text may end; before that a slot may stay empty instead."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) >= self.tail[:, None]

    def to(self, device: torch.device) -> Canvas:
        times = None if self.times is None else self.times.to(device)
        guesses, sure = (None if part is None else part.to(device) for part in (self.guesses, self.sure))
        parts = (part.to(device) for part in (self.valid, self.tail, self.confidences))
        return Canvas(self.tokens.to(device), times, *parts, guesses, sure)

    def with_open(self, threshold: float, mask: int, hidden: int | None = None) -> Canvas:
        """This canvas of guesses with those below a probability open, masks for the denoiser to fill.

        Args:
            hidden: the token that an open slot shows in place of its guess; None: the guess.
        """
        is_open = (self.confidences < threshold) & self.valid
        tokens = torch.where(is_open, mask, self.tokens)
        settled = torch.where(is_open, 0.0, self.confidences)
        shown = (self.tokens, self.confidences)
        if hidden is not None:
            shown = (torch.where(is_open, hidden, self.tokens), settled)
        return Canvas(tokens, self.times, self.valid, self.tail, settled, *shown)


def targets(layout: Layout, draft: Draft, reference: list[int], end: int, null: int) -> tuple[list[int], int]:
    """What each slot of a layout should become.

    The draft and the reference are aligned by their longest common subsequence. Between two matches, reference
    tokens take the slots of draft tokens first and those of gaps if there are more of them.

    Returns:
        a token for every slot (`null` for slots that stay empty, `end` from the end of the text on), and the
        number of reference tokens for which there was no slot.
    """
    from rapidfuzz.distance import LCSseq

    total, lost = len(draft.tokens), 0
    wanted = [end if source == total else null for source in layout.sources]
    by_source: dict[int, list[int]] = {}
    for slot, source in enumerate(layout.sources):
        by_source.setdefault(source, []).append(slot)
    matches = [op for op in LCSseq.opcodes(draft.tokens, reference) if op.tag == "equal"]
    pairs = [(op.src_start + i, op.dest_start + i) for op in matches for i in range(op.src_end - op.src_start)]
    before = (-1, -1)
    for match in [*pairs, (total, len(reference))]:
        slots = [slot for source in range(before[0] + 1, match[0] + 1) for slot in by_source.get(source, [])]
        if match[0] < total:
            wanted[slots.pop()] = reference[match[1]]  # the slot of the matching token itself
        missing = reference[before[1] + 1 : match[1]]
        preferred = sorted(slots, key=lambda slot: layout.gaps[slot])[: len(missing)]
        for slot, token in zip(sorted(preferred), missing, strict=False):
            wanted[slot] = token
        lost += len(missing) - len(preferred)
        before = match
    return wanted, lost
