"""What every enhancer has in common: the spectrum step, whole waveforms, saving, loading and batch-norm folding."""

from __future__ import annotations

import contextlib
import copy
import io
from pathlib import Path
from typing import Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from enhance.networks.adaptive import KernelBank
from enhance.networks.overlap_add import OverlapAdd, State

WEIGHTS = Path(__file__).parents[1] / "weights"


class Enhancer(nn.Module, PyTorchModelHubMixin):
    """A causal enhancer of 16 kHz speech that works on spectra frame by frame.

    Subclasses implement `forward(spectrum, state)`; the spectrum is real [batch, frames, bins, 2] (real and
    imaginary part), the state a flat dict of tensors. A missing entry is the start of an utterance, so `{}`
    is a fresh state, and the chunks of an utterance give exactly what the whole utterance gives.
    """

    sampling_rate = 16_000
    fft_size = 512  # samples: 32 ms
    hop = 256  # samples: 16 ms
    compact: str  # folder of the shipped weights

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, spectrum: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Spectrum [B, T, bins, 2] and the state before it -> enhanced spectrum of that shape, the state after."""
        raise NotImplementedError

    def initial_state(self, batch: int = 1) -> State:
        """The explicit zeros of a fresh start, as exporters and fixed-shape runtimes need them."""
        silence = torch.zeros(batch, 1, self.fft_size // 2 + 1, 2, device=self.device)
        with torch.inference_mode():
            _, state = self(silence)
        return {name: torch.zeros_like(value) for name, value in state.items()}

    @torch.inference_mode()
    def enhance(self, waveform: Tensor) -> Tensor:
        """A whole waveform [batch, samples] at 16 kHz, full scale 1, -> the enhanced waveform, same shape."""
        return OverlapAdd(self).whole(waveform)

    def fold(self) -> Self:
        """A copy in evaluation mode whose batch normalisations are merged into the convolutions before them."""
        model = copy.deepcopy(self).eval()
        for module in list(model.modules()):
            absorb_batch_norms(module)
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None = None, **options) -> Self:
        """Load a model in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder, a hub id, or None for the compact model of the package.

        Raises:
            FileNotFoundError: when None is asked for and the package holds no weights.
        """
        path = pretrained_model_name_or_path
        if path is None:
            path = WEIGHTS / cls.compact
            if not (path / "model.safetensors").exists():
                raise FileNotFoundError(
                    f"{path} holds no model.safetensors; train one with `python -m recipes.train "
                    f"experiment={cls.compact}` and pass its folder"
                )
        with contextlib.redirect_stdout(io.StringIO()):  # the hub mixin prints, and stdout may carry audio
            return super().from_pretrained(str(path), **options)

    def save_half(self, folder: str | Path) -> None:
        """`save_pretrained` with the floating-point weights in half precision; loading restores float32."""
        copy.deepcopy(self).half().save_pretrained(folder)


def absorb_batch_norms(module: nn.Module) -> None:
    """Merge each batch normalisation of a module with the kernel bank that is declared right before it."""
    children = list(module.named_children())
    for (_, layer), (name, norm) in zip(children, children[1:], strict=False):
        if isinstance(layer, KernelBank) and isinstance(norm, nn.BatchNorm2d):
            layer.absorb(norm)
            setattr(module, name, nn.Identity())
