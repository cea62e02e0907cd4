"""Beam search of the autoregressive twin with an n-gram language model: shallow fusion.

A text's score is the twin's log-probability, plus the weighted n-gram's, plus a bonus for each token (Gulcehre et al.
2015, arXiv 1503.03535, Sec. 4.1). It is the token-by-token counterpart of `asr.dllm.slot_search`: both have the same
n-gram, so their difference is what the denoiser is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asr.ar.greedy import END, NEVER, START, longest
from asr.ctc.beam import Hypothesis
from asr.ctc.ngram import NGram
from asr.dllm.caches import SpeechMemory, TextCache
from asr.dllm.network import Denoiser
from asr.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class FusionOptions:
    """Settings of the search.

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
    model: Denoiser, speech: SpeechMemory, tokenizer: Tokenizer, lm: NGram, options: FusionOptions
) -> tuple[list[Hypothesis], int]:
    """Texts of one utterance, best first, at most `beam_size`, and the passes of the twin that they took.

    Each step computes one token of every text in the beam. The search ends when `beam_size` texts have ended or at
    the most tokens that the speech can hold.
    """
    cache, limit = TextCache(), longest(int(speech.frames[0]))
    texts: list[tuple[int, ...]] = [()]
    scores, newest = torch.zeros(1), torch.tensor([[START]], device=speech.frames.device)
    ended: list[tuple[float, tuple[int, ...]]] = []
    passes = 0
    while True:
        logits = model.extend(newest, speech, cache)[:, -1].float().cpu()
        logits[:, list(NEVER)] = -torch.inf
        passes += 1
        total = scores[:, None] + logits.log_softmax(-1) + _language(lm, texts, options)
        ended += zip(total[:, END].tolist(), texts, strict=True)
        ended = sorted(ended, reverse=True)[: options.beam_size]
        total[:, END] = -torch.inf
        scores, chosen = total.flatten().topk(min(options.beam_size, total.numel()))
        alive = scores > (ended[-1][0] if len(ended) == options.beam_size else -torch.inf)
        if passes > limit or not alive.any():
            return [Hypothesis(list(text), tokenizer.decode(list(text)), score) for score, text in ended], passes
        scores, chosen = scores[alive], chosen[alive]
        rows, tokens = chosen // total.shape[1], chosen % total.shape[1]
        texts = [(*texts[row], token) for row, token in zip(rows.tolist(), tokens.tolist(), strict=True)]
        newest = tokens[:, None].to(newest.device)
        cache.rows(rows.to(newest.device))


def _language(lm: NGram, texts: list[tuple[int, ...]], options: FusionOptions) -> Tensor:
    """What n-gram and bonus add to each next token of each text: [len(texts), vocabulary]."""
    start = lm.start()
    rows = [torch.from_numpy(lm.distribution((*start, *text)[1 - lm.order :])) for text in texts]
    added = options.lm_weight * torch.stack(rows).float()
    added[:, :END] += options.token_bonus
    added[:, END + 1 :] += options.token_bonus
    return added
