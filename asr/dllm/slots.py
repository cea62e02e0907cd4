"""Slots that stand in time: a canvas on which words can appear and vanish wherever there is sound.

A token of the draft has a slot at its time; between two tokens stand empty slots, one to every `hop` frames and at
least one. What a slot becomes depends on what is said there, not on how many words the draft left out before it.

    draft   the     cat             the sat
    slots   the  _  cat  _   _   _  the sat  _  _
    text    the  _  cat  _  that _   _  sat  _  _
"""

from __future__ import annotations

import numpy as np

from asr.dllm.canvas import Draft, Layout

OWN_SLOT = 1.5  # frames by which a slot that already holds a token is nearer than an empty one


def slots_in_time(draft: Draft, empty: int, hop: float = 4.0) -> Layout:
    """The canvas of a draft.

    Args:
        draft: with times.
        empty: the token of a slot that holds nothing.
        hop: frames of the draft to an empty slot.
    """
    layout = Layout()
    before = 0.0
    for i, (token, sure, time) in enumerate(zip(draft.tokens, draft.confidences, draft.times, strict=True)):
        time = max(time, before)
        _gap(layout, empty, before, time, i, hop)
        layout.add(token, time, i, gap=False, confidence=sure)
        before = time
    _gap(layout, empty, before, max(before, draft.frames - 1.0), len(draft.tokens), hop)
    layout.tail = len(layout.tokens)  # the text ends where the slots do
    return layout


def _gap(layout: Layout, empty: int, start: float, end: float, source: int, hop: float) -> None:
    count = max(1, int((end - start) / hop))
    for k in range(count):
        layout.add(empty, start + (end - start) * (k + 1) / (count + 1), source, gap=True)


def slot_targets(layout: Layout, reference: Draft, empty: int) -> tuple[list[int], int]:
    """What each slot of a layout in time should become, whatever stands on it now.

    Tokens that layout and reference share (their longest common subsequence) stay where they are. Between them the
    reference's tokens take slots in order so that their times are as near as can be.

    Returns:
        a token for every slot, and the number of reference tokens for which there was none.
    """
    from rapidfuzz.distance import LCSseq

    wanted, lost = [empty] * len(layout.tokens), 0
    own = [slot for slot, token in enumerate(layout.tokens) if token != empty]
    standing = [layout.tokens[slot] for slot in own]
    matches = [op for op in LCSseq.opcodes(standing, reference.tokens) if op.tag == "equal"]
    pairs = [(own[op.src_start + i], op.dest_start + i) for op in matches for i in range(op.src_end - op.src_start)]
    slot, token = 0, 0
    bonus = np.array([0.0 if token == empty else OWN_SLOT for token in layout.tokens])
    for end, match in [*pairs, (len(layout.tokens), len(reference.tokens))]:
        for s, t in _nearest(layout.times, bonus, range(slot, end), reference.times, range(token, match)):
            wanted[s] = reference.tokens[t]
        lost += max(0, (match - token) - (end - slot))
        if end < len(layout.tokens):
            wanted[end] = reference.tokens[match]
        slot, token = end + 1, match + 1
    return wanted, lost


def _nearest(
    places: list[float], bonus: np.ndarray, slots: range, times: list[float], tokens: range
) -> list[tuple[int, int]]:
    """Pairs (slot, token), both rising, of least distance in time; the last tokens are left out if slots are few."""
    tokens = tokens[: len(slots)]
    if not tokens:
        return []
    at, bonus = np.array(places[slots.start : slots.stop]), bonus[slots.start : slots.stop]
    spare = len(slots) - len(tokens)
    best = np.zeros(spare + 1)  # best[k]: k slots left empty so far
    moves = []
    for i, t in enumerate(tokens):
        place = np.arange(i, i + spare + 1)
        cost = np.abs(at[place] - times[t]) - bonus[place]
        # the slots before this one that are newly left empty cost nothing
        source = np.array([int(best[: k + 1].argmin()) for k in range(spare + 1)])
        moves.append(source)
        best = best[source] + cost
    k = int(best.argmin())
    found = []
    for i in range(len(tokens) - 1, -1, -1):
        found.append((slots[i + k], tokens[i]))
        k = int(moves[i][k])
    return found[::-1]
