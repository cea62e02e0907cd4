"""Speech detection by silero-vad (MIT, https://github.com/snakers4/silero-vad) for many frames at once.

The network of the package's wheel is a script that hears frame by frame. Here the same weights hear a block: spectrum
and convolutions, which look at one frame each, of all frames together, and the recurrent layer as one sequence.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT = 64  # samples at 16 kHz before a frame that are heard with it

Memory = tuple[Tensor, Tensor]  # state and cell of the recurrent layer, each [1, width]


class SileroNetwork(nn.Module):
    """Frames with their context in, probabilities of speech out."""

    def __init__(self):
        super().__init__()
        self.spectrum = nn.Conv1d(1, 258, 256, stride=128, bias=False)  # real parts, then imaginary ones
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, 3, stride=stride, padding=1)
            for inputs, outputs, stride in ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        )
        self.recurrent = nn.LSTM(128, 128)
        self.out = nn.Linear(128, 1)

    def forward(self, frames: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Successive frames with their context [n, CONTEXT + 512] -> probabilities [n], memory for the next ones."""
        spectrum = self.spectrum(F.pad(frames, (0, 64), mode="reflect").unsqueeze(1))
        real, imaginary = spectrum.chunk(2, dim=1)
        x = (real.square() + imaginary.square()).sqrt()
        for convolution in self.convolutions:
            x = convolution(x).relu()
        x, memory = self.recurrent(x.squeeze(2), memory)
        return self.out(x.relu()).squeeze(1).sigmoid(), memory


class Silero:
    """The detector of one stream: remembers the end of what it heard, and its network's memory."""

    def __init__(self):
        self._network = network()
        self._context = torch.zeros(CONTEXT)
        self._memory: Memory | None = None

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Probabilities of speech [n] in the next frames [n, 512] of the stream."""
        wave = torch.cat((self._context, torch.from_numpy(frames).flatten()))
        self._context = wave[-CONTEXT:].clone()
        size = frames.shape[1]
        probabilities, self._memory = self._network(wave.unfold(0, CONTEXT + size, size), self._memory)
        return probabilities.numpy()


@cache
def network() -> SileroNetwork:
    """The network with silero-vad's weights for 16 kHz."""
    file = Path(find_spec("silero_vad").origin).parent / "data" / "silero_vad.jit"  # importing it sets threads to 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load is deprecated, and is what silero-vad ships for
        state = torch.jit.load(str(file), map_location="cpu").state_dict()
    part = {name.removeprefix("_model."): value for name, value in state.items() if name.startswith("_model.")}
    own = {"spectrum.weight": part["stft.forward_basis_buffer"]}
    for kind in ("weight", "bias"):
        own[f"out.{kind}"] = part[f"decoder.decoder.2.{kind}"].flatten(1 if kind == "weight" else 0)
        for i in range(4):
            own[f"convolutions.{i}.{kind}"] = part[f"encoder.{i}.reparam_conv.{kind}"]
        for side in ("ih", "hh"):
            own[f"recurrent.{kind}_{side}_l0"] = part[f"decoder.rnn.{kind}_{side}"]
    result = SileroNetwork()
    result.load_state_dict(own)
    return result.eval().requires_grad_(False)
