"""Scores of given texts: log p(text | audio) under CTC, whole or prefix by prefix, and log p(text) of an n-gram."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.ctc.beam import best_path
from asr.ctc.ngram import NGram


def ctc_scores(log_probabilities: Tensor, sequences: Sequence[Sequence[int]], blank: int = 0) -> Tensor:
    """Log-probability of each token sequence, summed over its CTC paths (Graves et al. 2006, Sec. 4.1).

    Args:
        log_probabilities: [frames, vocabulary] of one utterance.
        sequences: token ids without blanks; an empty one is the silent text.

    Returns:
        [len(sequences)]; minus infinity where a sequence has no path, being too long for the frames.
    """
    if not sequences:
        return torch.zeros(0)
    frames = len(log_probabilities)
    lengths = torch.tensor([len(s) for s in sequences])
    targets = torch.tensor([token for s in sequences for token in s], dtype=torch.long)
    loss = F.ctc_loss(
        log_probabilities.float().cpu()[:, None].expand(-1, len(sequences), -1),
        targets,
        torch.full((len(sequences),), frames),
        lengths,
        blank=blank,
        reduction="none",
    )
    return -loss


def ngram_score(lm: NGram, tokens: Sequence[int]) -> float:
    """Log-probability of a sentence, its end included."""
    context, total = lm.start(), 0.0
    for token in [*tokens, lm.end_id]:
        total += float(lm.distribution(context)[token])
        context = (*context, token)[1 - lm.order :]
    return total


class TextScorer:
    """What a recogniser thinks of any texts of one utterance, each in the tokenizer's own segmentation.

    Args:
        log_probabilities: [frames, vocabulary] of the utterance.
        tokenizer: has `encode(text) -> ids`, `decode(ids) -> text` and `blank_id`.
        lm: gives the n-gram over the same vocabulary when it is needed.
    """

    def __init__(self, log_probabilities: Tensor, tokenizer, lm: Callable[[], NGram | None] = lambda: None):
        self.log_probabilities, self.tokenizer, self.lm = log_probabilities, tokenizer, lm

    def __call__(self, texts: list[str]) -> list[float]:
        """log p(text | audio) of each text."""
        encoded = [self.tokenizer.encode(text) for text in texts]
        return ctc_scores(self.log_probabilities, encoded, self.tokenizer.blank_id).tolist()

    def language(self, texts: list[str]) -> list[float]:
        """log p(text) of each text under the n-gram; zeros where there is none."""
        lm = self.lm()
        if lm is None:
            return [0.0] * len(texts)
        return [ngram_score(lm, self.tokenizer.encode(text)) for text in texts]

    @property
    def best_path(self) -> str:
        """The greedy hypothesis, the kind that correction models learn from."""
        return best_path(self.log_probabilities, self.tokenizer).text


class CTCPrefixScorer:
    """Log-probability that the text begins with a prefix, for label-synchronous search.

    Watanabe et al. 2017, "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition", Sec. II-C.

    The state of a prefix is the log-probability, after each frame, of the paths that have just spelt it and end in
    its last token or in blank: [frames + 1, 2]. The recurrence over frames is a running log-sum-exp, so that all
    candidates of all prefixes are extended at once.

    Args:
        log_probabilities: [frames, vocabulary] of one utterance.
        blank, end: ids of the blank and of the token that ends a text.
    """

    def __init__(self, log_probabilities: Tensor, blank: int = 0, end: int = 2):
        x = log_probabilities.double().cpu()
        self.frames = x
        self.total = F.pad(x.cumsum(0), (0, 0, 1, 0))  # [frames + 1, vocabulary], log of running products
        self.blank, self.end = blank, end

    def start(self) -> Tensor:
        """State [1, frames + 1, 2] of the empty prefix."""
        state = torch.full((1, len(self.total), 2), -torch.inf, dtype=torch.double)
        state[0, :, 1] = self.total[:, self.blank]
        return state

    def extend(self, state: Tensor, last: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and states of prefixes with one token more.

        Args:
            state: [prefixes, frames + 1, 2].
            last: [prefixes] last token of each prefix (any special one for the empty prefix).
            tokens: [prefixes, candidates].

        Returns:
            log-probabilities [prefixes, candidates] (of the whole text where the token is the end), and states
            [prefixes, candidates, frames + 1, 2].
        """
        label, blank = state.unbind(-1)
        either = torch.logaddexp(label, blank)  # [prefixes, frames + 1]
        same = (tokens == last[:, None])[..., None]
        before = torch.where(same, blank[:, None], either[:, None])[..., :-1]  # [prefixes, candidates, frames]
        emitted = self.frames[:, tokens].permute(1, 2, 0)
        running = self.total[:, tokens].permute(1, 2, 0)
        # label'[t] = (label'[t - 1] + before[t - 1]) * x[t], and blank' from label' likewise.
        new_label = F.pad((before - running[..., :-1]).logcumsumexp(-1) + running[..., 1:], (1, 0), value=-torch.inf)
        blanks = self.total[:, self.blank]
        new_blank = F.pad((new_label[..., :-1] - blanks[:-1]).logcumsumexp(-1) + blanks[1:], (1, 0), value=-torch.inf)
        scores = (before + emitted).logsumexp(-1)
        scores = torch.where(tokens == self.end, either[:, -1:], scores)
        return scores, torch.stack([new_label, new_blank], -1)
