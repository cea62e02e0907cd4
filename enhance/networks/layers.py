"""Parts of both networks: recurrent middle, and the way through encoder, middle and decoder.

Grouped dual-path recurrence runs along frequency within a frame, then along time within a band.

Source: DPGRNN of GTCRN (Rong et al., ICASSP 2024, Section 2.4), without feature shuffling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels import gru


class GroupedGRU(nn.Module):
    """Independent GRUs on equal parts of the features; `hidden` counts one direction of all groups."""

    def __init__(self, features: int, hidden: int, groups: int = 2, bidirectional: bool = False):
        super().__init__()
        self.parts = nn.ModuleList(
            nn.GRU(features // groups, hidden // groups, batch_first=True, bidirectional=bidirectional)
            for _ in range(groups)
        )

    def forward(self, x: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [N, L, features], memory [N, hidden] (one direction) or None -> [N, L, out], memory."""
        if gru.pays(self, x, memory):
            y, last = gru.grouped_gru(x.permute(1, 2, 0), self.parts)
            return y.permute(2, 0, 1), last
        inputs = x.chunk(len(self.parts), -1)
        memories = [None] * len(self.parts) if memory is None else memory.chunk(len(self.parts), -1)
        results = [
            part(piece, None if past is None else past[None].contiguous())
            for part, piece, past in zip(self.parts, inputs, memories, strict=True)
        ]
        return torch.cat([y for y, _ in results], -1), torch.cat([last[0] for _, last in results], -1)


class DualPathRNN(nn.Module):
    """Grouped GRUs over frequency (both directions) and over time (forward only), each with a residual.

    Args:
        channels: features per band; also the hidden size of the time GRU, twice that of the frequency GRU.
        width: number of bands F.
    """

    def __init__(self, channels: int, width: int, groups: int = 2):
        super().__init__()
        self.intra = GroupedGRU(channels, channels // 2, groups, bidirectional=True)
        self.intra_linear = nn.Linear(channels, channels)
        self.intra_norm = nn.LayerNorm((width, channels))
        self.inter = GroupedGRU(channels, channels, groups)
        self.inter_linear = nn.Linear(channels, channels)
        self.inter_norm = nn.LayerNorm((width, channels))

    def forward(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """x [B, C, T, F], state with the time GRU's `memory` [B, F, C] or empty -> [B, C, T, F], state."""
        batch, _, _, width = x.shape
        x = x.permute(0, 2, 3, 1)  # [B, T, F, C]
        y, _ = self.intra(x.flatten(0, 1))
        x = x + self.intra_norm(self.intra_linear(y.unflatten(0, (batch, -1))))
        memory = state.get("memory")
        y, memory = self.inter(
            x.transpose(1, 2).flatten(0, 1), None if memory is None else memory.flatten(0, 1)
        )  # [B * F, T, C]
        y = self.inter_linear(y.unflatten(0, (batch, width)).transpose(1, 2))
        x = x + self.inter_norm(y)
        return x.permute(0, 3, 1, 2), {"memory": memory.unflatten(0, (batch, width))}


def run_stages(
    network: nn.Module, x: Tensor, state: dict[str, Tensor] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Encoder blocks, recurrent blocks and decoder blocks with additive skip connections.

    Each block is called as `block(x, its part of the state) -> x, its part of the state after`; in the flat
    state its entries carry the block's name. None stands for an entry that a block does not need.
    """
    state, after, skips = state or {}, {}, []

    def run(block: nn.Module, prefix: str, x: Tensor) -> Tensor:
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        x, inner = block(x, inner)
        after.update({prefix + key: value for key, value in inner.items() if value is not None})
        return x

    for i, block in enumerate(network.encoder):
        x = run(block, f"encoder{i}.", x)
        skips.append(x)
    for i, block in enumerate(network.recurrent):
        x = run(block, f"recurrent{i}.", x)
    for i, block in enumerate(network.decoder):
        x = run(block, f"decoder{i}.", x + skips.pop())
    return x, after
