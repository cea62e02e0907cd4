"""Drafts, canvases and their targets."""

import pytest
import torch

from asr.dllm.canvas import Canvas, CanvasOptions, Draft, aligned_draft, ctc_draft, lay_out, targets
from asr.dllm.loop import END, MASK, NULL


def posteriors(path: list[int], sure: list[float], vocabulary: int = 12) -> torch.Tensor:
    """Log-probabilities with the given best token and its probability in each frame."""
    rows = []
    for token, p in zip(path, sure, strict=True):
        row = torch.full((vocabulary,), (1 - p) / (vocabulary - 1))
        row[token] = p
        rows.append(row.log())
    return torch.stack(rows)


def test_draft_takes_the_highest_posterior_of_each_run():
    draft = ctc_draft(posteriors([0, 5, 5, 0, 5, 7, 7], [0.9, 0.6, 0.8, 0.9, 0.7, 0.5, 0.95]))
    assert draft.tokens == [5, 5, 7]
    assert draft.confidences == pytest.approx([0.8, 0.7, 0.95])
    assert draft.times == [2.0, 4.0, 6.0]


def test_blank_penalty_lets_faint_tokens_in():
    frames = posteriors([0, 0, 6], [0.99, 0.5, 0.9])
    frames[1, 8] = torch.tensor(0.4).log()
    assert ctc_draft(frames).tokens == [6]
    draft = ctc_draft(frames, blank_penalty=1.0)
    assert draft.tokens == [8, 6] and draft.confidences[0] == pytest.approx(0.4)


def test_aligned_draft_of_the_best_path_is_the_ctc_draft():
    frames = posteriors([0, 5, 0, 7, 7, 0], [0.9, 0.8, 0.9, 0.9, 0.9, 0.9])
    draft = aligned_draft(frames, [5, 7])
    assert draft.times == [1.0, 3.5] and draft.confidences == pytest.approx([0.8, 0.9])


def test_layout_masks_unsure_tokens_and_puts_slots_beside_them():
    draft = Draft([5, 6, 7], [0.95, 0.4, 0.99], [2.0, 5.0, 9.0], 12)
    layout = lay_out(draft, CanvasOptions(threshold=0.9), MASK)
    assert layout.tokens == [5, MASK, MASK, MASK, 7, *[MASK] * 4]
    assert layout.gaps == [False, True, False, True, False, *[True] * 4]
    assert layout.tail == 5 and sorted(layout.times) == layout.times
    bare = lay_out(draft, CanvasOptions(threshold=0.9, slots=False, slack=2.0), MASK)
    assert bare.tokens == [5, MASK, 7, *[MASK] * 6]


def test_targets_spell_the_reference_wherever_there_is_room():
    draft = Draft([5, 6, 7, 8], [0.95, 0.4, 0.3, 0.99], [2.0, 5.0, 6.0, 9.0], 12)
    layout = lay_out(draft, CanvasOptions(), MASK)
    # 6 is wrong, 7 should not be there, 10 is missing at the end.
    wanted, lost = targets(layout, draft, [5, 11, 8, 10], END, NULL)
    assert lost == 0
    assert [t for t in wanted if t not in (NULL, END)] == [5, 11, 8, 10]
    assert wanted[layout.tail :] == [10, END, END, END]
    # Between two sure tokens there is no slot.
    sure = Draft([5, 8], [1.0, 1.0], [2.0, 9.0], 12)
    assert targets(lay_out(sure, CanvasOptions(), MASK), sure, [5, 6, 8], END, NULL)[1] == 1


def test_canvas_of_an_empty_draft_and_of_one_longer_than_the_speech():
    empty = Draft([], [], [], 10)
    long = Draft([5] * 50, [0.1] * 50, [float(i) / 5 for i in range(50)], 10)
    canvas = Canvas.of([lay_out(d, CanvasOptions(), MASK) for d in (empty, long)], pad=END)
    assert canvas.valid.sum(1).tolist() == [4, 105] and canvas.tail.tolist() == [0, 100]
    assert canvas.tokens[0, 4:].eq(END).all()
