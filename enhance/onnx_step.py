"""The exported streaming step (`python -m enhance.export`) as an enhancer that runs in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


class OnnxEnhancer:
    """The exported step behind the interface of `enhance.networks.enhancer.Enhancer`, for one channel on a CPU.

    Raises:
        FileNotFoundError: no such file.
        ImportError: onnxruntime is not installed.
    """

    sampling_rate, fft_size, hop = 16_000, 512, 256

    def __init__(self, path: str | Path, threads: int = 1):
        import onnxruntime

        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: no such file; write it with python -m enhance.export {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.shapes = {i.name: i.shape for i in self.session.get_inputs() if i.name != "spectrum"}
        self.device = torch.device("cpu")

    def fold(self) -> OnnxEnhancer:
        return self

    def to(self, device: str) -> OnnxEnhancer:
        return self

    def initial_state(self, batch: int = 1) -> dict:
        return {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}

    def __call__(self, spectrum, state: dict | None = None):
        """Spectrum [1, T, 257, 2] and the state before it -> enhanced spectrum, the state after it.

        The state's entries are numpy arrays, as onnxruntime takes and gives them.

        Raises:
            ValueError: more than one channel.
        """
        if spectrum.shape[0] != 1:
            raise ValueError(
                f"{spectrum.shape[0]} channels; the ONNX step takes one: enhance them one by one"
            )
        feed = state or self.initial_state()
        frames = []
        for frame in spectrum.numpy().swapaxes(0, 1):
            enhanced, *values = self.session.run(None, {"spectrum": frame[:, None], **feed})
            feed = dict(zip(feed, values, strict=True))
            frames.append(enhanced)
        return torch.cat([torch.from_numpy(frame) for frame in frames], 1), feed
