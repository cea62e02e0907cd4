"""What text decoders keep: keys and values of the speech, computed once, and of the text, between passes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class SpeechMemory:
    """Keys and values of the encoder's output for every layer: the speech cache, exact since speech never changes."""

    keys: list[Tensor]  # each [batch, heads, frames, size], rotated
    values: list[Tensor]
    valid: Tensor | None  # [batch, 1, 1, frames], None where nothing is padded
    frames: Tensor  # [batch] encoder frames
    anchors: Tensor | None = None  # [batch, frames, width] what a slot placed at a frame starts from
    scores: Tensor | None = None  # [batch, frames, vocabulary] CTC log-probabilities, of the blank as of `<null>`

    def rows(self, index: Tensor) -> SpeechMemory:
        """The memory of some utterances of the batch."""
        return SpeechMemory(
            [k[index] for k in self.keys],
            [v[index] for v in self.values],
            None if self.valid is None else self.valid[index],
            self.frames[index],
            None if self.anchors is None else self.anchors[index],
            None if self.scores is None else self.scores[index],
        )


class TextCache:
    """Keys and values of every canvas position, as they were when the position was last computed."""

    def __init__(self):
        self.keys: list[Tensor] = []  # each [batch, heads, positions, size]
        self.values: list[Tensor] = []

    def update(self, layer: int, positions: Tensor | None, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values of `positions` [batch, n] (None: of all, which come first); return everything."""
        if layer == len(self.keys):
            self.keys.append(keys.clone())
            self.values.append(values.clone())
        elif positions is None:
            self.keys[layer], self.values[layer] = keys, values
        else:
            index = positions[:, None, :, None].expand_as(keys)
            self.keys[layer].scatter_(2, index, keys)
            self.values[layer].scatter_(2, index, values)
        return self.keys[layer], self.values[layer]

    def enter(self, layer: int, active: Tensor | None, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Called before each layer with the positions it is to compute and their states; may widen both."""
        return active, x

    def observe(self, layer: int, active: Tensor | None, query: Tensor, keys: Tensor, mask: Tensor | None) -> None:
        """Called in each layer with what attends to what."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add positions at the end (autoregressive decoding); return everything."""
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat((self.keys[layer], keys), dim=2)
            self.values[layer] = torch.cat((self.values[layer], values), dim=2)
        return self.keys[layer], self.values[layer]

    def crop(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self.keys = [k[:, :, :length] for k in self.keys]
        self.values = [v[:, :, :length] for v in self.values]

    def rows(self, index: Tensor) -> None:
        """Keep only some utterances of the batch."""
        self.keys = [k[index] for k in self.keys]
        self.values = [v[index] for v in self.values]
