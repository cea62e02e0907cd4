"""Canvases to learn from: drafts on slots in time as decoding lays them out, some made worse and some better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr.ar.greedy import IGNORED
from asr.dllm.canvas import Canvas, Draft, Layout, aligned_draft, ctc_draft
from asr.dllm.slots import slot_targets, slots_in_time
from asr.hybrid.denoiser import EMPTY
from asr.hybrid.model import HybridModel

NEAR = 3  # slots between two wrong ones that belong to one mistake
MOST_LOST = 2  # reference tokens without a slot; of a draft that loses more nothing can be learned


@dataclass
class Corruption:
    """What is done to drafts.

    Args:
        hop: frames of the draft to an empty slot, as in decoding.
        repaired: share of batches in which a random share of the mistakes is made right, as a better draft or an
            earlier pass would have it.
        damaged: most of the tokens that vanish from a draft or, a third as often, become another.
        own: share of batches that learn from what the denoiser itself makes of the canvas in one pass (on-policy).
        commits: confidences from which on the own pass changes the canvas, one drawn for each batch.
    """

    hop: float = 4.0
    repaired: float = 0.5
    damaged: float = 0.1
    own: float = 0.5
    commits: tuple[float, ...] = (0.0, 0.5, 0.9)


@dataclass
class Example:
    """A canvas and what should stand on it."""

    layout: Layout
    reference: Draft

    @property
    def wanted(self) -> list[int]:
        """The token of every slot of the layout as it is now."""
        return slot_targets(self.layout, self.reference, EMPTY)[0]


def examples(
    posteriors: list[Tensor], units: list[list[int]], model: HybridModel, options: Corruption, rng: np.random.Generator
) -> dict[int, Example]:
    """Examples by utterance; one whose text does not fit its frames or its draft is left out.

    Args:
        posteriors: CTC log-probabilities [frames, units] of each utterance.
        units: what was said, in units of the branch.
    """
    repaired = float(rng.random()) if rng.random() < options.repaired else 0.0
    found = {}
    for i, (frames, said) in enumerate(zip(posteriors, units, strict=True)):
        try:
            reference = model.tokenizer.translate(aligned_draft(frames, said), model.units)
        except ValueError:
            continue
        draft = model.tokenizer.translate(ctc_draft(frames), model.units)
        layout = slots_in_time(draft, EMPTY, options.hop)
        wanted, lost = slot_targets(layout, reference, EMPTY)
        if lost > MOST_LOST:
            continue
        repair(layout, wanted, repaired, rng)
        damage(layout, options.damaged * float(rng.random()), reference.tokens, rng)
        found[i] = Example(layout, reference)
    return found


def repair(layout: Layout, wanted: list[int], share: float, rng: np.random.Generator) -> None:
    """Make a share of the mistakes right, each with all slots that belong to it."""
    mistakes: list[list[int]] = []
    for i, (token, want) in enumerate(zip(layout.tokens, wanted, strict=True)):
        if token != want:
            if not mistakes or i > mistakes[-1][-1] + NEAR:
                mistakes.append([])
            mistakes[-1].append(i)
    for places in mistakes:
        if rng.random() < share:
            for i in places:
                layout.tokens[i] = wanted[i]
                layout.confidences[i] = float(rng.uniform(0.5, 1.0)) if wanted[i] != EMPTY else 0.0


def damage(layout: Layout, share: float, others: list[int], rng: np.random.Generator) -> None:
    """Let a share of the tokens vanish, and a third as many become one of others."""
    for i, token in enumerate(layout.tokens):
        chance = rng.random()
        if token == EMPTY or chance >= share * 4 / 3:
            continue
        lost = chance < share or not others
        layout.tokens[i] = EMPTY if lost else others[rng.integers(len(others))]
        layout.confidences[i] = 0.0 if lost else float(rng.uniform(0.2, 0.9))


def adopt(rows: list[Example], logits: Tensor, commit: float) -> None:
    """Put what a pass found, logits [batch, slots, vocabulary], on the canvases where it is sure enough."""
    sure, best = logits.float().softmax(-1).max(-1)
    for row, found, probability in zip(rows, best.tolist(), sure.tolist(), strict=True):
        for i in range(len(row.layout.tokens)):
            if probability[i] >= commit:
                row.layout.tokens[i], row.layout.confidences[i] = found[i], probability[i]


def collated(rows: list[Example]) -> tuple[Canvas, Tensor]:
    """Canvases of a batch, all that stands on them as guesses, and wanted tokens [batch, slots]."""
    canvas = Canvas.of([row.layout for row in rows], pad=EMPTY)
    wanted = torch.full(canvas.tokens.shape, IGNORED)
    for i, row in enumerate(rows):
        wanted[i, : len(row.layout.tokens)] = torch.tensor(row.wanted)
    return canvas, wanted
