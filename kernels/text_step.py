"""Tokens of a Transformer text decoder, a few at a time, in 8 bits on a CPU.

A decoder that writes token by token spends more time on calls of operators than on numbers. Here compiled loops
(`kernels.text_step_loops`) do all that lies between its linear layers, and these too where there is one position, whose
products a matrix routine is not made for. The decoder is one like Whisper's: self-attention over the text so far,
attention to the speech, feed-forward, each behind a LayerNorm and around a residual.

Weights are whole numbers of 8 bits with a scale for each output. Activations are rounded to whole numbers with a scale
for each position, found as they come (Dettmers et al. 2022, "LLM.int8()", arXiv 2208.07339, Sec. 2.1), so a position's
result depends on nothing that is computed beside it. The definition that tests compare with is written in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOM = 64  # positions by which a text's memory grows
SURE = 0.99  # probability among the frequent outputs from which the others are not looked at


class Norm(NamedTuple):
    """A LayerNorm: two arrays [width], float32."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass
class Product:
    """A linear layer in 8 bits, x [rows, inputs] -> [rows, outputs].

    Args:
        weight: [outputs, inputs] int8.
        scale: [outputs] float32, of weights times that of activations whose largest is 1.
        bias: [outputs] float32.
        levels: whole numbers from 0 to the largest activation.
        many: the same for several positions.
    """

    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    levels: np.float32
    many: Callable[[Tensor], Tensor]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if len(x) > 1:
            return self.many(torch.from_numpy(x)).numpy()
        return loops().linear(x, self.weight, self.scale, self.bias, self.levels)


class Layer(NamedTuple):
    """The weights of one layer; `own` gives queries, keys and values of the text, `queries` those to the speech."""

    text_norm: Norm
    own: Product
    text_out: Product
    speech_norm: Norm
    queries: Product
    speech_out: Product
    out_norm: Norm
    wider: Product
    narrower: Product


class Text:
    """Keys and values of the texts so far, of every layer, with room for more: [layers, texts, heads, room, size]."""

    def __init__(self, layers: int, texts: int, heads: int, size: int):
        self.keys, self.values = (np.zeros((layers, texts, heads, ROOM, size), np.float32) for _ in range(2))
        self.count = 0  # positions that are taken

    def take(self, more: int) -> int:
        """Make room for more positions; returns the first of them."""
        first, self.count = self.count, self.count + more
        if self.count > self.keys.shape[3]:
            wider = [(0, 0)] * 3 + [(0, max(ROOM, more)), (0, 0)]
            self.keys, self.values = np.pad(self.keys, wider), np.pad(self.values, wider)
        return first

    def rows(self, index: np.ndarray) -> None:
        """Keep only some texts, or some several times."""
        self.keys, self.values = self.keys[:, index], self.values[:, index]


def write(
    x: np.ndarray, text: Text, keys: list[np.ndarray], values: list[np.ndarray], frames: np.ndarray, layers: list[Layer]
) -> np.ndarray:
    """States of the last layer for the next positions of several texts.

    Args:
        x: [texts, positions, width] float32, embeddings with their positions; written over.
        text: what was written before; grows.
        keys, values: of the speech for each layer [texts or 1, heads, frames, size] float32.
        frames: [texts or 1] frames of each that are speech.
        layers: their weights.

    Returns:
        [texts, positions, width].
    """
    run, positions = loops(), x.shape[1]
    first, x = text.take(positions), x.reshape(-1, x.shape[-1])
    for number, layer in enumerate(layers):
        own = layer.own(run.normed(x, *layer.text_norm))
        heard = run.attend_to_text(own, text.keys[number], text.values[number], first, positions)
        run.add(x, layer.text_out(heard))
        queries = layer.queries(run.normed(x, *layer.speech_norm))
        run.add(x, layer.speech_out(run.attend_to_speech(queries, keys[number], values[number], frames, positions)))
        wide = layer.wider(run.normed(x, *layer.out_norm))
        run.gelu(wide)
        run.add(x, layer.narrower(wide))
    return x.reshape(-1, positions, x.shape[-1])


def scores(x: np.ndarray, norm: Norm, output: Product) -> np.ndarray:
    """Logits [rows, outputs] of states x [rows, width]: norm and output layer."""
    return output(loops().normed(x, *norm))


def likeliest(
    x: np.ndarray, norm: Norm, output: Product, never: np.ndarray, frequent: Product | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The most probable output for each of states x [rows, width] and its probability, both [rows].

    The output layer of a large vocabulary is most of the weights of a step, and its rare outputs hardly ever matter:
    where one of the frequent ones is nearly certain among them, it is taken, with that probability.

    Args:
        x, norm, output: as `scores` takes them.
        never: outputs that are none.
        frequent: the first rows of `output`, looked at first.
    """
    run = loops()
    x = run.normed(x, *norm)
    if frequent is None:
        return run.likeliest(output(x), never)
    best, sure = run.likeliest(frequent(x), never)
    rows = np.flatnonzero(sure < SURE)
    if len(rows):
        best[rows], sure[rows] = run.likeliest(output(x[rows]), never)
    return best, sure


@cache
def loops() -> ModuleType:
    """Imported on first use: numba takes a while."""
    from kernels import text_step_loops

    return text_step_loops
