"""Beam search of a model that writes token by token, with an adviser: an n-gram language model, or names to expect.

A text's score is the model's log-probability plus what the adviser adds to each token (shallow fusion, Gulcehre et al.
2015, arXiv 1503.03535, Sec. 4.1). With the n-gram it is the token-by-token counterpart of `asr.dllm.slot_search`: both
have the same n-gram, so their difference is what the denoiser is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.ar.greedy import END, Writes, longest, marks_of, new_cache
from asr.ctc.beam import Hypothesis
from asr.ctc.ngram import NGram
from asr.text.hotwords import ROOT, Hotwords

Text = tuple[int, ...]
Adviser = Callable[[list[Text]], Tensor]  # texts so far -> what each next token gains, [len(texts), vocabulary]


@dataclass(frozen=True)
class FusionOptions:
    """Settings of the search with an n-gram.

    Args:
        beam_size: texts that are continued at each step, and texts that are kept when they have ended.
        lm_weight: factor on the language model's log-probability.
        token_bonus: added for each token, against the taste of both models for short texts.
    """

    beam_size: int = 8
    lm_weight: float = 0.5
    token_bonus: float = 2.0


@torch.inference_mode()
def search_tokens(
    model: Writes,
    speech: object,
    decode: Callable[[list[int]], str],
    advise: Adviser,
    beam_size: int,
    normalised: bool = False,
) -> tuple[list[Hypothesis], int]:
    """Texts of one utterance, best first, at most `beam_size`, and the passes of the model that they took.

    Each step computes one token of every text in the beam. The search ends when `beam_size` texts have ended or at
    the most tokens that the speech can hold. `token_scores` are the model's own.

    A sum of log-probabilities prefers texts that leave out the rest. With an adviser that pays for every token this
    is balanced; otherwise `normalised` divides by the length (Wu et al. 2016, arXiv 1609.08144, Sec. 7) and lets a
    text end only where its end is the most probable token.
    """
    cache, marks = new_cache(model), marks_of(model)
    limit = min(longest(int(speech.frames[0])), model.most_tokens)
    texts: list[Text] = [()]
    own: list[tuple[float, ...]] = [()]  # the model's log-probability of each token
    scores, newest = torch.zeros(1), torch.tensor([[marks.start]], device=speech.frames.device)
    ended: list[tuple[float, Text, tuple[float, ...]]] = []
    passes = 0
    while True:
        logits = model.extend(newest, speech, cache)[:, -1].float().cpu()
        logits[:, list(marks.never)] = -torch.inf
        passes += 1
        written = logits.log_softmax(-1)
        total = scores[:, None] + written + advise(texts)
        length = passes if normalised else 1
        if normalised:
            total[total.argmax(-1) != marks.end, marks.end] = -torch.inf
        ended += zip((total[:, marks.end] / length).tolist(), texts, own, strict=True)
        ended = sorted(ended, reverse=True)[:beam_size]
        total[:, marks.end] = -torch.inf
        scores, chosen = total.flatten().topk(min(beam_size, total.numel()))
        rival = ended[0][0] if normalised else ended[-1][0] if len(ended) == beam_size else -torch.inf
        alive = scores / length > rival
        if passes > limit or not alive.any():
            if ended[0][0] == -torch.inf:  # the model never came to an end
                ended = [(float(scores[0]), texts[0], own[0])]
            return [Hypothesis(list(text), decode(list(text)), s, list(sure)) for s, text, sure in ended], passes
        scores, chosen = scores[alive], chosen[alive]
        rows, tokens = chosen // total.shape[1], chosen % total.shape[1]
        pairs = list(zip(rows.tolist(), tokens.tolist(), strict=True))
        texts, own = [(*texts[r], t) for r, t in pairs], [(*own[r], float(written[r, t])) for r, t in pairs]
        newest = tokens[:, None].to(newest.device)
        cache.rows(rows.to(newest.device))


@dataclass(frozen=True)
class NGramAdvice:
    """The n-gram's log-probabilities and a bonus for each token but the end."""

    lm: NGram
    options: FusionOptions

    def __call__(self, texts: list[Text]) -> Tensor:
        start = self.lm.start()
        rows = [torch.from_numpy(self.lm.distribution((*start, *text)[1 - self.lm.order :])) for text in texts]
        added = self.options.lm_weight * torch.stack(rows).float()
        added[:, :END] += self.options.token_bonus
        added[:, END + 1 :] += self.options.token_bonus
        return added


class HotwordAdvice:
    """What names earn, see `asr.text.hotwords`; for the texts of one search."""

    def __init__(self, hotwords: Hotwords, end: int):
        self.hotwords, self.end = hotwords, end
        self._states: dict[Text, int] = {(): ROOT}

    def __call__(self, texts: list[Text]) -> Tensor:
        return torch.stack([torch.from_numpy(self.hotwords.gains(self._state(text), self.end)) for text in texts])

    def _state(self, text: Text) -> int:
        if text not in self._states:
            self._states[text] = self.hotwords.step(self._states[text[:-1]], text[-1])[0]
        return self._states[text]
