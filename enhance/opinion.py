"""What listeners would say of enhanced speech, by the network of DNSMOS P.835, with a gradient: a loss for enhancers.

The package `speechmos` runs that network in onnxruntime, which has no way back. Here its weights are read from the
package into torch. A metric that a model was trained towards no longer judges it fairly: say so beside its figures, and
look at others such as PESQ, STOI, word errors and DNSMOS P.808, another network (`enhance.metrics.dnsmos` gives both).

Source: DNSMOS P.835 (Reddy et al., ICASSP 2022, arXiv 2110.01763).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from enhance.metrics import require

BEST = 5.0
WINDOW, HOP = 320, 160  # samples at 16 kHz
FLOOR = 1e-12  # least power
CONVOLUTIONS = ("conv2d", *(f"conv2d_{number}" for number in range(1, 7)))
POOLED = ("conv2d_3", "conv2d_4", "conv2d_5")  # what comes after them is half as long and half as wide
DENSE = ("dense", "dense_1", "dense_3")
# From what the network says to opinions of signal, background, overall: factors of its square and of itself, and a sum.
SCALES = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)


class Opinion(nn.Module):
    """Opinions, 1 to 5, of signal, background and overall quality [batch, 3] of waveforms [batch, samples] at 16 kHz.

    DNSMOS hears 9 s at a time and repeats what is shorter. Here a waveform of any length from 0.2 s is heard as it is.

    Raises:
        ImportError: the package that has the weights, or the one that reads them, is not installed.
    """

    def __init__(self):
        super().__init__()
        require("training towards DNSMOS", "speechmos", "onnx")
        weights = _weights(Path(find_spec("speechmos").origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx")
        waves = [weights[f"time2freq/stft-{part}/kernel:0"] for part in ("real", "imag")]  # [bins, samples, 1]
        self.register_buffer("waves", torch.cat(waves).transpose(1, 2))
        self.register_buffer("scales", torch.tensor(SCALES).T)
        self.kernels = nn.ParameterList(weights[f"{name}/kernel:0"] for name in CONVOLUTIONS)
        self.offsets = nn.ParameterList(weights[f"{name}/bias:0"] for name in CONVOLUTIONS)
        read = "mos_estimator_logpow/{}/{}/ReadVariableOp/resource:0"
        self.matrices = nn.ParameterList(weights[read.format(name, "MatMul")] for name in DENSE)
        self.biases = nn.ParameterList(weights[read.format(name, "BiasAdd")] for name in DENSE)
        self.requires_grad_(False)

    def forward(self, wave: Tensor) -> Tensor:
        real, imaginary = F.conv1d(wave[:, None], self.waves, stride=HOP).chunk(2, dim=1)
        power = real.square() + imaginary.square()
        x = power.clamp(min=FLOOR).log10().transpose(1, 2)[:, None]  # [batch, 1, frames, bins]
        for name, kernel, offset in zip(CONVOLUTIONS, self.kernels, self.offsets, strict=True):
            x = F.conv2d(x, kernel, offset, padding=1).relu()
            if name in POOLED:
                x = F.max_pool2d(x, 2)
        x = x.amax((2, 3)) @ self.matrices[0] + self.biases[0]
        for matrix, bias in zip(self.matrices[1:], self.biases[1:], strict=True):
            x = x.relu() @ matrix + bias
        square, linear, constant = self.scales
        return (square * x + linear) * x + constant


def _weights(path: Path) -> dict[str, Tensor]:
    import onnx

    parts = onnx.load(path).graph.initializer
    return {part.name: torch.from_numpy(onnx.numpy_helper.to_array(part).copy()) for part in parts}
