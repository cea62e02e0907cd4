"""Elastic-Cache (arXiv 2510.14973): refresh cached keys and values of settled positions only where they have drifted.

Settled positions leave the computation, so their keys and values in the deeper layers grow stale as their neighbours
change. The settled position that gets most attention is computed along in every pass; where its attention row turns
away from what it was, everything above that layer is recomputed for all positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.dllm.caches import TextCache


class ElasticCache(TextCache):
    """A text cache that also keeps the inputs and the attention of every layer.

    Args:
        gamma: cosine similarity of the watched attention row to its last value below which layers are refreshed.
    """

    def __init__(self, gamma: float = 0.9):
        super().__init__()
        self.gamma = gamma
        self.inputs: list[Tensor] = []  # each [batch, positions, width]
        self.attention: list[Tensor] = []  # each [batch, heads, positions, positions], rows as last computed
        self.watched: Tensor | None = None  # [batch] settled position with most attention
        self.has_drifted = False
        self.refreshed_layers = 0

    def choose(self, settled: Tensor) -> Tensor:
        """The settled position [batch] to watch in the next pass, of settled [batch, positions]."""
        received = sum(a.sum((1, 2)) for a in self.attention)
        self.watched = received.masked_fill(~settled, -1.0).argmax(1)
        return self.watched

    def enter(self, layer: int, active: Tensor | None, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Keep a layer's input; after a drift the layer computes all positions (None), from the kept inputs."""
        if layer == 0:
            self.has_drifted = False
        if layer == len(self.inputs):
            self.inputs.append(x.clone())
        elif active is None:
            self.inputs[layer] = x
        else:
            self.inputs[layer].scatter_(1, active.unsqueeze(-1).expand_as(x), x)
            if self.has_drifted:
                return None, self.inputs[layer].clone()
        if active is None and self.has_drifted:
            self.refreshed_layers += 1
        return active, x

    def observe(self, layer: int, active: Tensor | None, query: Tensor, keys: Tensor, mask: Tensor | None) -> None:
        """Keep the attention rows of the computed positions and look whether the watched one has drifted."""
        scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        rows = scores.softmax(-1)
        if layer == len(self.attention):
            self.attention.append(rows)
            return
        if active is None:
            self.attention[layer] = rows
            return
        old = self._row(layer)
        self.attention[layer].scatter_(2, active[:, None, :, None].expand_as(rows), rows)
        self.has_drifted |= bool((F.cosine_similarity(old, self._row(layer), dim=-1).mean(1) < self.gamma).any())

    def _row(self, layer: int) -> Tensor:
        """The watched position's attention [batch, heads, positions] in a layer."""
        index = self.watched[:, None, None, None].expand(-1, *self.attention[layer].shape[1:2], 1, self._width(layer))
        return self.attention[layer].gather(2, index).squeeze(2)

    def _width(self, layer: int) -> int:
        return self.attention[layer].shape[-1]

    def crop(self, length: int) -> None:
        super().crop(length)
        self.inputs = [x[:, :length] for x in self.inputs]
        self.attention = [a[:, :, :length, :length] for a in self.attention]

    def rows(self, index: Tensor) -> None:
        super().rows(index)
        self.inputs = [x[index] for x in self.inputs]
        self.attention = [a[index] for a in self.attention]
