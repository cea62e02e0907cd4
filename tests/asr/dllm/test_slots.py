"""Canvases whose slots stand in time: where tokens go, what each slot should become, what the loop shows a model."""

import itertools

import numpy as np
import pytest
import torch

from asr.dllm.canvas import Canvas, CanvasOptions, Draft
from asr.dllm.loop import DenoisingOptions, denoise
from asr.dllm.slots import OWN_SLOT, slot_targets, slots_in_time

EMPTY, MASK = 3, 1
A, B, C, D = 10, 11, 12, 13


def draft(tokens, times, frames=50, sure=0.5):
    return Draft(tokens, [sure] * len(tokens), times, frames)


def test_every_stretch_of_sound_has_an_empty_slot():
    layout = slots_in_time(draft([A, B], [4.0, 30.0]), EMPTY, hop=4.0)
    assert [t for t in layout.tokens if t != EMPTY] == [A, B]
    assert layout.times == sorted(layout.times) and layout.times[-1] <= 49
    edges = [0.0, *layout.times, 49.0]
    assert max(b - a for a, b in itertools.pairwise(edges)) <= 8.0
    assert layout.tail == len(layout.tokens)  # the text may not end before the slots do


def test_tokens_of_one_word_keep_their_order_and_a_slot_between_them():
    layout = slots_in_time(draft([A, B, C], [5.0, 5.0, 5.0]), EMPTY)
    kept = [i for i, t in enumerate(layout.tokens) if t != EMPTY]
    assert [layout.tokens[i] for i in kept] == [A, B, C]
    assert all(b - a == 2 for a, b in itertools.pairwise(kept))


def test_an_empty_draft_is_empty_slots():
    layout = slots_in_time(draft([], [], 20), EMPTY)
    assert set(layout.tokens) == {EMPTY} and len(layout.tokens) == 4


def test_shared_tokens_stay_and_a_missing_word_takes_the_slot_of_its_time():
    said = draft([A, B], [4.0, 40.0])
    layout = slots_in_time(said, EMPTY)
    wanted, lost = slot_targets(layout, draft([A, C, B], [4.0, 22.0, 40.0]), EMPTY)
    assert lost == 0 and [t for t in wanted if t != EMPTY] == [A, C, B]
    assert [wanted[i] for i, t in enumerate(layout.tokens) if t != EMPTY] == [A, B]
    empties = [i for i, t in enumerate(layout.tokens) if t == EMPTY]
    nearest = min(empties, key=lambda i: abs(layout.times[i] - 22.0))
    assert wanted[nearest] == C


def test_a_wrong_word_is_replaced_where_it_stands_and_an_invented_one_becomes_empty():
    said = draft([A, B, C], [4.0, 20.0, 40.0])
    layout = slots_in_time(said, EMPTY)
    own = [i for i, t in enumerate(layout.tokens) if t != EMPTY]
    wanted, _ = slot_targets(layout, draft([A, D, C], [4.0, 21.0, 40.0]), EMPTY)
    assert [wanted[i] for i in own] == [A, D, C]
    wanted, _ = slot_targets(layout, draft([A, C], [4.0, 40.0]), EMPTY)
    assert [wanted[i] for i in own] == [A, EMPTY, C]


def test_what_stands_on_the_slots_now_counts_not_the_draft_they_were_made_of():
    layout = slots_in_time(draft([A, B], [4.0, 40.0]), EMPTY)
    first, second = (i for i, t in enumerate(layout.tokens) if t != EMPTY)
    layout.tokens[first], layout.tokens[second + 1] = EMPTY, C
    wanted, _ = slot_targets(layout, draft([B, C], [40.0, 40.0]), EMPTY)
    assert {i: t for i, t in enumerate(wanted) if t != EMPTY} == {second: B, second + 1: C}


def test_tokens_without_a_slot_are_counted():
    said = draft([A], [0.0], frames=1)
    layout = slots_in_time(said, EMPTY)
    wanted, lost = slot_targets(layout, draft([B] * 9, [0.0] * 9), EMPTY)
    assert lost == 9 - len(layout.tokens) and EMPTY not in wanted


@pytest.mark.parametrize("seed", range(5))
def test_assignment_is_the_nearest_of_all_that_keep_the_order(seed):
    rng = np.random.default_rng(seed)
    said = draft([A], [float(rng.integers(5, 20))], 30)
    layout = slots_in_time(said, EMPTY)
    times = sorted(rng.uniform(0, 29, 3).tolist())
    wanted, _ = slot_targets(layout, draft([B, C, D], times), EMPTY)
    cost = lambda slots: sum(  # noqa: E731
        abs(layout.times[s] - t) - (0 if layout.gaps[s] else OWN_SLOT) for s, t in zip(slots, times, strict=True)
    )
    found = [i for i, t in enumerate(wanted) if t != EMPTY]
    best = min(map(cost, itertools.combinations(range(len(layout.tokens)), 3)))
    assert cost(found) == pytest.approx(best)


def test_bad_layouts_are_refused():
    with pytest.raises(ValueError, match="layout is 'circle'"):
        CanvasOptions(layout="circle")
    with pytest.raises(ValueError, match="hop is 0"):
        CanvasOptions(hop=0)
    with pytest.raises(ValueError, match="layout is 'time' and slots is False"):
        CanvasOptions(layout="time", slots=False)


class Recorder:
    """Says B everywhere and writes down what it was shown."""

    computes_all = True

    def __init__(self):
        self.shown = []

    def denoise(self, canvas, speech, times=None, valid=None, guesses=None, sure=None):
        self.shown.append((guesses.clone(), sure.clone()))
        logits = torch.zeros(*canvas.shape, 16)
        logits[..., B] = 3.0  # three times in five
        logits[:, 0, B] = 20.0
        return logits


@pytest.mark.parametrize("guesses", [True, False])
def test_open_slots_show_the_last_guess_only_where_that_is_wanted(guesses):
    layout = slots_in_time(draft([A, C], [4.0, 8.0], 12, sure=0.5), EMPTY)
    canvas = Canvas.of([layout], EMPTY).with_open(0.9, MASK, None if guesses else EMPTY)
    shown = layout.tokens if guesses else [EMPTY] * len(layout.tokens)
    assert (canvas.tokens == MASK).all() and canvas.guesses.tolist() == [shown]
    assert bool(canvas.sure.any()) is guesses
    model = Recorder()
    result = denoise(model, None, canvas, DenoisingOptions(max_passes=2, guesses=guesses))
    second, sure = model.shown[1]
    assert int(second[0, 0]) == B and float(sure[0, 0]) > 0.9
    assert set(second[0, 1:].tolist()) == ({B} if guesses else {EMPTY})
    assert result.tokens[0] == [B] * len(layout.tokens)
