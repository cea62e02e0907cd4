"""Correct the output of a recogniser: text in, text out, with guards against doing harm.

from dlm import Corrector
corrector = Corrector.from_pretrained()
corrector("he tels us that at this festiv season")
corrector([("he tels us", -3.1), ("he tell us", -3.4)])         # n-best list
corrector(["he tels us", "he tell us"], score_texts=utterance.score_texts)  # a choice with the audio in view
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

from asr.text.tokenizer import normalise_text
from dlm.decoding import SearchOptions, choose, greedy, score_texts, search
from dlm.model import DenoisingLM

CHUNK = 300  # characters of a stretch that is corrected at once; training sentences are no longer
Scorer = Callable[[list[str]], list[float]]  # texts -> log p(text | audio) of each, as asr.ar.rescoring.TextScorer
Hypotheses = str | Sequence[str] | Sequence[tuple[str, float]]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorrectionOptions:
    """How the corrector decides.

    Args:
        scale: weight of log p(text | hypothesis) beside log p(text | audio), where the audio has a say.
        ngram_scale: weight of the recogniser's n-gram, there, where it has one.
        bonus: added to a candidate for each of its words, there.
        margin: without audio, a change is made only when log p(change | hypothesis) exceeds
            log p(hypothesis | hypothesis) by this many nats.
        sure: without audio, words that the recogniser is at least so confident of stay.
        beam_size: candidates that the model writes, where the audio has a say.
        longest: lines of more characters pass through.
    """

    scale: float = 0.5
    ngram_scale: float = 0.0
    bonus: float = 0.0
    margin: float = 2.0
    sure: float = 0.9
    beam_size: int = 8
    longest: int = 2000

    def __post_init__(self):
        if self.beam_size < 1 or self.longest < 1:
            raise ValueError(f"beam_size {self.beam_size} and longest {self.longest} must be at least 1")


@dataclass(frozen=True)
class Correction:
    """What was made of a hypothesis; `gain` is log p(text | hypothesis) - log p(hypothesis | hypothesis) in nats."""

    hypothesis: str
    text: str
    gain: float = 0.0


class Corrector:
    """A correction model with its guards; see the module docstring.

    Args:
        model: correction model.
        options: how to decide (default: as tuned for the model).
    """

    def __init__(self, model: DenoisingLM, options: CorrectionOptions | None = None):
        if not model.encoder:
            raise ValueError(
                "this is a language model without an encoder: it reads no hypothesis; take a correction model"
            )
        self.model = model.eval()
        self.options = options or CorrectionOptions(**model.correction)

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, device: str = "cpu", **options) -> Corrector:
        """Load from a folder or a Hub id; None is the compact model. `options` override the model's tuned ones.

        Raises:
            OSError: there is no such model.
        """
        model = DenoisingLM.from_pretrained(name).to(device)
        return cls(model, CorrectionOptions(**{**model.correction, **options}))

    def __call__(self, hypotheses: Hypotheses, score_texts: Scorer | None = None) -> str:
        """The corrected text of one utterance.

        Args:
            hypotheses: a text, or an n-best list of texts or (text, score), best first.
            score_texts: gives log p(text | audio) of texts, such as `asr.ar.rescoring.TextScorer`; with it the choice
                is DSR over the n-best list, the model's own beam and the hypothesis, without it only the guarded
                1-best correction.
        """
        texts = texts_of(hypotheses)
        if not texts or not texts[0].strip():
            return texts[0] if texts else ""
        if score_texts is None:
            return self.correct([texts[0]])[0].text
        return self._by_audio(texts, score_texts)

    def correct(self, hypotheses: Sequence[str], batch_size: int = 32) -> list[Correction]:
        """Guarded corrections of texts without their audio, in order."""
        chunks = [self._chunks(text) for text in hypotheses]
        flat = [chunk for line in chunks for chunk in line]
        mended = iter(self._mend(flat, batch_size))
        corrections = []
        for text, line in zip(hypotheses, chunks, strict=True):
            parts = [next(mended) for _ in line]
            changed = any(part.text != part.hypothesis for part in parts)
            result = " ".join(part.text for part in parts if part.text)
            result = result.upper() if text.isupper() else result
            corrections.append(Correction(text, result if changed else text, sum(part.gain for part in parts)))
        return corrections

    def running(
        self, parts: Sequence[str], batch_size: int = 32, sure: Sequence[Sequence[float] | None] | None = None
    ) -> list[Correction]:
        """Parts of one text, each corrected by itself.

        Args:
            parts: texts.
            batch_size: stretches at once.
            sure: the recogniser's confidence in each word of a part, or None: words it is sure of stay.
        """
        corrections = self.correct(parts, batch_size)
        return [
            c if known is None else replace(c, text=with_sure_words(c.hypothesis, c.text, known, self.options.sure))
            for c, known in zip(corrections, sure or [None] * len(corrections), strict=True)
        ]

    def _mend(self, chunks: list[str], batch_size: int) -> list[Correction]:
        """The margin's decision about each chunk."""
        written = [s.text for s in greedy(self.model, chunks, batch_size)]
        changed = [i for i, text in enumerate(written) if text != chunks[i]]
        before = [chunks[i] for i in changed]
        new = score_texts(self.model, before, [written[i] for i in changed], batch_size)
        kept = score_texts(self.model, before, before, batch_size)
        result = [Correction(chunk, chunk) for chunk in chunks]
        for i, gain in zip(changed, (a - b for a, b in zip(new, kept, strict=True)), strict=True):
            if gain > self.options.margin:
                result[i] = Correction(chunks[i], written[i], gain)
        return result

    def _chunks(self, text: str) -> list[str]:
        """Stretches of whole words to correct; none where the text must pass through, with a warning."""
        words = text.lower().split() if text.isupper() else text.split()
        plain = " ".join(words)
        if not plain:
            return []
        if len(text) > self.options.longest:
            log.warning("passed through: %d characters (limit %d): %.40s...", len(text), self.options.longest, text)
            return []
        if normalise_text(plain) != plain:
            strange = sorted({c for c in plain if normalise_text(f"a{c}a") != f"a{c}a"} - {" "})
            shown = " ".join(strange[:8]) or "a lone apostrophe"
            log.warning("passed through: the model knows a-z, apostrophe and space, not %s: %.40s", shown, text)
            return []
        chunks = [""]
        for word in words:
            if chunks[-1] and len(chunks[-1]) + len(word) >= CHUNK:
                chunks.append("")
            chunks[-1] = f"{chunks[-1]} {word}".strip()
        return chunks if max(map(len, words)) <= CHUNK else []

    def _by_audio(self, texts: list[str], audio: Scorer) -> str:
        """DSR from the greedy hypothesis; a text too long for one stretch, or in another script, stays as it is."""
        source = getattr(audio, "best_path", texts[0])
        if texts[0].isupper() or any(len(self._chunks(text)) != 1 for text in (source, texts[0])):
            return texts[0]
        options = self.options
        known = [text for text in texts if normalise_text(text) == text]
        beam = search(self.model, [source], options=SearchOptions(beam_size=options.beam_size))
        candidates = list(dict.fromkeys([*known, source, *(scored.text for scored in beam)]))
        scores = [
            (1.0, audio(candidates)),
            (options.scale, score_texts(self.model, [source] * len(candidates), candidates)),
        ]
        if options.ngram_scale and hasattr(audio, "language"):
            scores.append((options.ngram_scale, audio.language(candidates)))
        return candidates[choose(candidates, scores, options.bonus)]


def texts_of(hypotheses: Hypotheses) -> list[str]:
    """The texts of a hypothesis or an n-best list, best first."""
    if isinstance(hypotheses, str):
        return [hypotheses]
    return [h if isinstance(h, str) else h[0] for h in hypotheses]


def with_sure_words(hypothesis: str, text: str, confidences: Sequence[float], sure: float) -> str:
    """A correction without those of its changes that replace or drop a word of at least the confidence `sure`."""
    old, new, words = hypothesis.split(), text.split(), []
    for tag, a0, a1, b0, b1 in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        keeps = tag == "equal" or max(confidences[a0:a1], default=0.0) >= sure
        words += old[a0:a1] if keeps else new[b0:b1]
    return " ".join(words)
