"""The streaming step as an ONNX graph, which `enhance.onnx_step` runs in onnxruntime.

    python -m enhance.export adaptcrn.onnx
    python -m enhance.export adaptcrn.int8.onnx --int8              # weights in 8 bits
    python -m enhance.denoise noisy.wav -o clean/ --model adaptcrn.onnx

The graph takes the spectrum of one frame [1, 1, 257, 2] and the state, and returns the enhanced spectrum and the
state after it. State inputs have the names of the state's entries, state outputs the same names with `.next`.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from pathlib import Path

from asr.console.program import program

NEXT = ".next"
SMALLEST_MATRIX = 64  # numbers; smaller ones are not worth a scale


def export_onnx(enhancer, path: str | Path, opset: int = 18) -> None:
    """Write the streaming step of an enhancer, batch normalisation folded.

    Raises:
        ImportError: the packages onnx and onnxscript (extra "onnx") are not installed.
    """
    import logging
    import warnings

    import torch
    from torch import nn

    from asr.audio.io import atomic_path

    folded = enhancer.fold().cpu()
    state = folded.initial_state()
    names = list(state)

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.enhancer = folded

        def forward(self, spectrum, *values):
            enhanced, after = self.enhancer(spectrum, dict(zip(names, values, strict=True)))
            return enhanced, *(after[name] for name in names)

    spectrum = torch.zeros(1, 1, folded.fft_size // 2 + 1, 2)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it lists what torchvision would have brought
    with atomic_path(Path(path)) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the GRUs' list of their own weights is not a buffer
        torch.onnx.export(
            Step().eval(), (spectrum, *state.values()), temporary, dynamo=True, opset_version=opset, verbose=False,
            input_names=["spectrum", *names], output_names=["enhanced", *(name + NEXT for name in names)],
            custom_translation_table=_translations(), external_data=False,
        )  # fmt: skip


def quantise(source: str | Path, target: str | Path) -> None:
    """Write an exported step whose weight matrices are stored as 8-bit integers with a scale for each row.

    They become floating-point numbers again where they are used, so nothing but their rounding is lost. Integer
    arithmetic with scales drawn from each frame (onnxruntime's dynamic quantisation) was tried: slower, and undefined
    for digital silence.

    Raises:
        ImportError: the package onnx (extra "onnx") is not installed.
    """
    import onnx

    from asr.audio.io import atomic_path

    model = onnx.load(str(source))
    graph, kept, nodes = model.graph, [], []
    for tensor in graph.initializer:
        parts = _in_eight_bits(tensor)
        kept += parts[0] if parts else [tensor]
        nodes += parts[1] if parts else []
    originals = list(graph.node)
    for node in originals:  # the exporter's notes on where in the source a node came from are longer than the weights
        node.doc_string = ""
        del node.metadata_props[:]
    for field, values in ((graph.initializer, kept), (graph.node, [*nodes, *originals])):
        values = [copy.deepcopy(value) for value in values]
        del field[:]
        field.extend(values)
    with atomic_path(Path(target)) as temporary:
        onnx.save(model, str(temporary))


def _in_eight_bits(tensor) -> tuple[list, list] | None:
    """Integers and scales of a weight matrix, and the node that multiplies them; None for what is no such matrix."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    long = [size for size in tensor.dims if size > 1]
    if tensor.data_type != TensorProto.FLOAT or len(long) < 2 or np.prod(long) < SMALLEST_MATRIX:
        return None
    weight = numpy_helper.to_array(tensor)
    axis = next(i for i, size in enumerate(tensor.dims) if size > 1)
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(others), 1e-12) / 127
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    integers = np.round(weight / scale.reshape(shape)).astype(np.int8)
    names = f"{tensor.name}.int8", f"{tensor.name}.scale"
    arrays = [numpy_helper.from_array(a, name) for a, name in zip((integers, scale.astype("f")), names, strict=True)]
    return arrays, [helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis)]


def _translations() -> dict:
    """ONNX for the two operators that the exporter does not know or knows only in a long-winded form."""
    import torch

    import kernels  # noqa: F401  (registers the operator)

    return {
        torch.ops.denoising_speech.adaptive_conv2d_input_grad.default: _transposed_convolution,
        torch.ops.aten.gru.input: _gru,
    }


def _transposed_convolution(x, attention, weight, frames_in, bins_in, stride, padding, groups, backend):
    """One frame of the transposed adaptive convolution: assemble its kernel, then ConvTranspose."""
    from onnxscript import opset18 as op

    shape = [int(size) for size in weight.shape[1:]]
    flat = op.Reshape(weight, op.Constant(value_ints=[int(weight.shape[0]), -1]))
    mixed = op.MatMul(op.Reshape(attention, op.Constant(value_ints=[1, -1])), flat)
    output_padding = bins_in - ((x.shape[3] - 1) * stride - 2 * padding + shape[-1])
    return op.ConvTranspose(
        x, op.Reshape(mixed, op.Constant(value_ints=shape)), strides=[1, stride], pads=[0, padding, 0, padding],
        output_padding=[0, output_padding], group=groups,
    )  # fmt: skip


def _gru(x, memory, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    """One layer of a batch-first GRU; torch orders the gates reset, update, new, ONNX update, reset, new."""
    from onnxscript import opset18 as op

    def axes(*values: int):
        return op.Constant(value_ints=list(values))

    hidden = int(memory.shape[2])
    order = axes(*range(hidden, 2 * hidden), *range(hidden), *range(2 * hidden, 3 * hidden))

    def stacked(offset: int):
        """Parameter `offset` of each direction, gates reordered, [directions, 3 hidden, ...]."""
        parts = [op.Unsqueeze(op.Gather(p, order, axis=0), axes(0)) for p in params[offset::4]]
        return op.Concat(*parts, axis=0) if len(parts) > 1 else parts[0]

    swap = (x.shape[0], x.shape[1]) != (1, 1)  # ONNX wants time first
    y, last = op.GRU(
        op.Transpose(x, perm=[1, 0, 2]) if swap else x,
        stacked(0), stacked(1), op.Concat(stacked(2), stacked(3), axis=1), None, memory,
        hidden_size=hidden, direction="bidirectional" if bidirectional else "forward", linear_before_reset=1,
    )  # fmt: skip
    y = op.Transpose(y, perm=[2, 0, 1, 3])  # [L, directions, N, hidden] -> [N, L, directions, hidden]
    return op.Reshape(y, axes(0, 0, -1)), last


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m enhance.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output", type=Path, help="file to write (*.onnx)")
    parser.add_argument("--model", help="architecture, folder or hub id; the compact AdaptCRN when not given")
    parser.add_argument("--int8", action="store_true", help="weight matrices as 8-bit integers")
    args = parser.parse_args(argv)

    from enhance.loading import load_enhancer

    try:
        enhancer = load_enhancer(args.model)
        if args.int8:
            with tempfile.TemporaryDirectory() as folder:
                export_onnx(enhancer, whole := Path(folder) / "step.onnx")
                quantise(whole, args.output)
        else:
            export_onnx(enhancer, args.output)
    except (OSError, ValueError, ImportError) as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
