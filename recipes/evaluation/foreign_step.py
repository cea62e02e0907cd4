"""Streaming steps that others exported to ONNX, GTCRN's for one.

Such a graph takes the spectrum of one frame of 512 samples (257 bins, real and imaginary part, in any order of axes)
and states, and returns the enhanced spectrum and the states after it, in the order of the inputs. Analysis and
synthesis are those of this project and of GTCRN: square-root Hann window, hop 256.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FFT, HOP = 512, 256
BINS = FFT // 2 + 1


class OnnxStep:
    """Whole waveforms at 16 kHz through a streaming step; see the module's docstring.

    Raises:
        FileNotFoundError: no such file.
        ImportError: onnxruntime is not installed.
        ValueError: the graph is not such a step.
    """

    def __init__(self, path: str | Path):
        self.session = _session(path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.spectrum, states = _split(path, inputs)
        self.enhanced, after = _split(path, outputs)
        if len(states) != len(after):
            raise ValueError(f"{path}: {len(states)} states go in and {len(after)} come out; a step returns them all")
        self.states = {i.name: np.zeros([int(size) for size in i.shape], np.float32) for i in states}
        self.order = [self.enhanced.name, *(o.name for o in after)]
        self.axes = _axes(path, self.spectrum.shape)
        self.parameters = _parameters(path)

    def __call__(self, noisy: np.ndarray) -> np.ndarray:
        window = np.sqrt(np.hanning(FFT + 1)[:-1]).astype(np.float32)
        padded = np.pad(noisy, (HOP, HOP + -len(noisy) % HOP))
        output, states = np.zeros(len(padded), np.float32), self.states
        for start in range(0, len(padded) - HOP, HOP):
            spectrum = np.fft.rfft(padded[start : start + FFT] * window)
            frame = np.stack((spectrum.real, spectrum.imag), 1).astype(np.float32)  # [257, 2]
            enhanced, *after = self.session.run(self.order, {self.spectrum.name: self._shaped(frame), **states})
            states = dict(zip(states, after, strict=True))
            real, imaginary = self._flat(enhanced).T
            output[start : start + FFT] += np.fft.irfft(real + 1j * imaginary, FFT) * window
        return output[HOP : HOP + len(noisy)]

    def _shaped(self, frame: np.ndarray) -> np.ndarray:
        bins, parts = self.axes
        return (frame if bins < parts else frame.T).reshape([int(size) for size in self.spectrum.shape])

    def _flat(self, enhanced: np.ndarray) -> np.ndarray:
        bins, parts = _axes("output", enhanced.shape)
        return enhanced.reshape(BINS, 2) if bins < parts else enhanced.reshape(2, BINS).T


def is_ours(path: str | Path) -> bool:
    """Whether the file was written by `python -m enhance.export`."""
    from enhance.export import NEXT

    names = {i.name for i in _session(path).get_outputs()}
    return "enhanced" in names and all(name == "enhanced" or name.endswith(NEXT) for name in names)


def _session(path: str | Path):
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _split(path: str | Path, values: list) -> tuple:
    """The spectrum among inputs or outputs, and the others."""
    spectra = [v for v in values if sorted(s for s in v.shape if s != 1) == [2, BINS]]
    if not spectra:
        shapes = ", ".join(f"{v.name} {v.shape}" for v in values)
        raise ValueError(f"{path}: no spectrum of one frame ({BINS} bins, 2 parts) among {shapes}")
    return spectra[0], [v for v in values if v is not spectra[0]]


def _axes(path: str | Path, shape) -> tuple[int, int]:
    return list(shape).index(BINS), list(shape).index(2)


def _parameters(path: str | Path) -> int | None:
    from importlib.util import find_spec

    if find_spec("onnx") is None:
        return None
    import onnx

    return weights_of(onnx.load(str(path)))


def weights_of(model) -> int:
    """Numbers in the floating-point and integer weight tensors of a graph."""
    sizes = [int(np.prod(tensor.dims)) for tensor in model.graph.initializer]
    return sum(size for size in sizes if size > 1)
