"""Every choice of denoising decoding in one place, so that each ablation of the paper is a line of configuration."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from asr.dllm.canvas import CanvasOptions
from asr.dllm.commit import commit_rule
from asr.dllm.loop import DenoisingOptions
from asr.dllm.slot_search import SlotSearchOptions

PRIORS = ("ctc", "beam", "none")
SEARCHES = ("none", "ngram")


@dataclass(frozen=True)
class DenoisingDecode:
    """Every choice of denoising decoding; a denoiser brings the defaults that dev shows to be best for it.

    Args:
        prior: "ctc" lays the greedy CTC draft on the canvas, "beam" the beam search's, "none" starts from masks.
        threshold, slots, slack, slack_least, blank_penalty, layout, hop, guesses: of `asr.dllm.canvas.CanvasOptions`.
        length: slots of a canvas without a prior.
        commit: rule by name, see `asr.dllm.commit.commit_rule`.
        pruning, early_exit, speech_cache, elastic, max_passes, guesses: of `asr.dllm.loop.DenoisingOptions`.
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
    layout: str = "order"
    hop: float = 4.0
    guesses: bool = True
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
        if self.length < 1:
            raise ValueError(f"length is {self.length}; it must be at least 1")
        # The filter of the learned rule is known only with the denoiser.
        rule = None if self.commit.startswith("learned") else commit_rule(self.commit)
        for part, extra in ((CanvasOptions, {}), (DenoisingOptions, {"commit": rule}), (SlotSearchOptions, {})):
            self.part(part, **extra)  # each refuses what it cannot be

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
