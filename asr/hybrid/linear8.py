"""Linear layers in 8 bits whose result for one utterance does not depend on what shares its batch.

Weights have a scale for each output, as they are stored (`asr.eight_bits`), so nothing is lost by loading them.
Activations have a scale for each position, found as they come (Dettmers et al. 2022, "LLM.int8()", arXiv 2208.07339,
Sec. 2.1, "vector-wise quantization"), and the products are sums of whole numbers, which are exact in any order.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.eight_bits import quantised
from asr.hybrid.encoder import Attention

MULTIPLY = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default


def activation_levels() -> int:
    """Steps from 0 to the largest activation, which is stored with as many and one added, so that it is not negative.

    One bit less where the sum of two products overflows 16 bits: up to 127 times 127 it does not.
    """
    return 127 if torch.cpu.get_capabilities().get("avx512_vnni") else 63


class Linear8(nn.Module):
    """One or several linear layers of one input, whose outputs follow one another."""

    def __init__(self, *layers: nn.Linear):
        super().__init__()
        weights = [layer.weight.detach().float() for layer in layers]
        stored = quantised({"weight": torch.cat(weights) if len(weights) > 1 else weights[0]})
        rows = len(stored["weight"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later torch replaces
            weight = torch._make_per_channel_quantized_tensor(
                stored["weight"], stored["weight.scale"].double(), torch.zeros(rows, dtype=torch.long), 0
            )
        self.packed = torch.ops.quantized.linear_prepack(weight, None)
        biases = [layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias for layer in layers]
        self.bias = torch.cat(biases).detach().float()  # no buffer: those are slow to look up, and these never move
        levels = activation_levels()
        self.step, self.zero = 1 / levels, levels + 1

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        x = x.detach()  # whole numbers have no gradient
        loudest = x.abs().amax(-1, keepdim=True)
        # A row of zeros gives 0/0, some whole number from it, and 0 times that.
        y = MULTIPLY(x / loudest, self.step, self.zero, self.packed)
        return torch.addcmul(self.bias, y, loudest, out=y)

    def first(self, count: int) -> Linear8:
        """A layer of its first outputs."""
        weight, _ = torch.ops.quantized.linear_unpack(self.packed)
        part = nn.Linear(weight.shape[1], count)
        part.weight, part.bias = nn.Parameter(weight[:count].dequantize()), nn.Parameter(self.bias[:count])
        return Linear8(part)


class Conv8(nn.Module):
    """A convolution over time in 8 bits: a linear layer of the frames under its kernel, which are not copied."""

    def __init__(self, source: nn.Conv1d):
        super().__init__()
        (self.kernel,), (self.stride,), (self.padding,) = source.kernel_size, source.stride, source.padding
        weight = source.weight.transpose(1, 2).flatten(1)
        linear = nn.Linear(weight.shape[1], len(weight), bias=False)
        linear.weight, linear.bias = nn.Parameter(weight.detach()), source.bias
        self.linear = Linear8(linear)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, frames] -> [batch, outputs, ceil(frames / stride)]."""
        x = F.pad(x.transpose(1, 2), (0, 0, self.padding, self.padding)).contiguous()
        batch, frames, inputs = x.shape
        count = (frames - self.kernel) // self.stride + 1
        windows = x.as_strided((batch, count, self.kernel * inputs), (frames * inputs, self.stride * inputs, 1))
        return self.linear(windows).transpose(1, 2)


class Embedding8(nn.Module):
    """An embedding in 8 bits."""

    def __init__(self, source: nn.Embedding):
        super().__init__()
        stored = quantised({"weight": source.weight.detach().float()})
        self.weight, self.scale = stored["weight"], stored["weight.scale"].unsqueeze(1)

    def forward(self, index: Tensor) -> Tensor:
        """[...] -> [..., width]."""
        return self.weight[index].float() * self.scale[index]


class Attention8(nn.Module):
    """`Attention` in 8 bits: layers of one input are computed as one."""

    def __init__(self, source: Attention):
        super().__init__()
        self.heads = source.heads
        self.query, self.out = Linear8(source.query), Linear8(source.out)
        self.memory = Linear8(source.key, source.value)
        self.all = Linear8(source.query, source.key, source.value)

    split, attend, forward = Attention.split, Attention.attend, Attention.forward

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(map(self.split, self.memory(x).chunk(2, -1)))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(map(self.split, self.all(x).chunk(3, -1)))


def in_eight_bits(module: nn.Module) -> nn.Module:
    """The module with its linear layers and convolutions of states in 8 bits, in place; what is one is made anew.

    Dropout goes: asking it costs as much as a small sum, and this is for inference.

    Raises:
        RuntimeError, NotImplementedError: torch has no such layers for this processor.
    """
    if isinstance(module, nn.Linear):
        return Linear8(module)
    if isinstance(module, nn.Embedding):
        return Embedding8(module)
    if isinstance(module, nn.Conv1d) and module.in_channels == module.out_channels:  # of states, not of sounds
        return Conv8(module)
    if isinstance(module, Attention):
        return Attention8(module)
    if isinstance(module, nn.Dropout):
        return nn.Identity()
    for name, child in module.named_children():
        setattr(module, name, in_eight_bits(child))
    return module
