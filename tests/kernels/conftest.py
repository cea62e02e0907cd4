"""Cases of adaptive convolution and their comparison with the double-precision definition."""

from dataclasses import dataclass

import pytest
import torch

import kernels


@dataclass(frozen=True)
class Case:
    name: str
    c_in: int
    c_out: int
    groups: int
    taps: tuple[int, int]
    bins: int
    stride: int = 1
    padding: int = 0
    output_padding: int | None = None  # a number makes it a transposed convolution
    batch: int = 2
    frames: int = 3
    candidates: int = 3
    past: bool = False

    @property
    def transposed(self) -> bool:
        return self.output_padding is not None

    def inputs(self) -> list[torch.Tensor]:
        """Every differentiable input in double precision; x is not contiguous."""
        torch.manual_seed(0)
        shape = (self.batch, self.c_in, self.frames, self.bins)
        x = torch.randn(shape, dtype=torch.float64).transpose(1, 2).contiguous().transpose(1, 2)
        attention = torch.randn(self.batch, self.frames, self.candidates, dtype=torch.float64).softmax(-1)
        pair = (self.c_in, self.c_out) if self.transposed else (self.c_out, self.c_in)
        weight = torch.randn(self.candidates, pair[0], pair[1] // self.groups, *self.taps, dtype=torch.float64)
        tensors = [x, attention, weight, torch.randn(self.c_out, dtype=torch.float64)]
        if self.past:
            past = torch.randn(self.batch, self.c_in, self.taps[0] - 1, self.bins, dtype=torch.float64)
            tensors.append(past)
        return tensors

    def run(self, tensors: list[torch.Tensor], backend: str | None) -> torch.Tensor:
        x, attention, weight, bias, *past = tensors
        geometry = dict(stride=self.stride, padding=self.padding, groups=self.groups, backend=backend)
        if self.transposed:
            return kernels.adaptive_conv_transpose2d(
                x, attention, weight, bias, output_padding=self.output_padding, **geometry
            )
        return kernels.adaptive_conv2d(x, attention, weight, bias, past=past[0] if past else None, **geometry)


CASES = [
    Case("depthwise strided", 3, 3, 3, (1, 5), 21, stride=2, padding=2),
    Case("depthwise 3x3", 2, 2, 2, (3, 3), 9, padding=1),
    Case("depthwise 3x3 past", 2, 2, 2, (3, 3), 9, padding=1, past=True),
    Case("depthwise wide padding", 2, 2, 2, (2, 2), 6, stride=3, padding=3),
    Case("depthwise several blocks", 3, 3, 3, (1, 2), 131, batch=1, frames=5, candidates=2),
    Case("depthwise long", 3, 3, 3, (3, 3), 33, padding=1, frames=70, past=True),
    Case("depthwise long strided", 4, 4, 4, (1, 5), 65, stride=2, padding=2, frames=67, batch=1),
    Case("one frame", 4, 4, 4, (3, 3), 7, padding=1, frames=1),
    Case("one frame past", 4, 6, 2, (2, 3), 7, padding=1, frames=1, past=True),
    Case("one frame of one utterance", 4, 4, 4, (2, 3), 7, padding=1, frames=1, batch=1),
    Case("pointwise", 6, 4, 1, (1, 1), 7),
    Case("pointwise to one", 4, 1, 1, (1, 1), 5),
    Case("pointwise several blocks", 35, 33, 1, (1, 1), 67, batch=1, frames=2),
    Case("grouped", 6, 4, 2, (1, 1), 7, past=True),
    Case("dense", 4, 6, 1, (2, 3), 11, stride=3, padding=1, past=True),
    Case("channel multiplier", 2, 4, 2, (2, 2), 6, stride=2, padding=1),
    Case("single channel", 1, 1, 1, (3, 3), 8, stride=2, padding=1),
    Case("transposed depthwise", 4, 4, 4, (1, 5), 7, stride=2, padding=2, output_padding=0),
    Case("transposed depthwise narrow", 4, 4, 4, (1, 3), 7, padding=1, output_padding=0),
    Case("transposed depthwise long", 4, 4, 4, (1, 5), 33, stride=2, padding=2, output_padding=0, frames=66, batch=1),
    Case("transposed one frame", 4, 6, 2, (1, 3), 5, stride=2, output_padding=1, frames=1),
    Case("transposed grouped", 4, 6, 2, (1, 5), 7, stride=3, padding=1, output_padding=2),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name.replace(" ", "_"))
def case(request) -> Case:
    return request.param


@pytest.fixture
def poisoned():
    """Memory that nobody has written reads as NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(2).isnan().all() and torch.ones(1).new_empty(2).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def relative_errors():
    """Relative errors of the output and of every gradient against the definition in double precision."""

    def measure(case: Case, backend: str | None, dtype=torch.float32, device="cpu") -> list[float]:
        rounded = [t.to(dtype) for t in case.inputs()]
        wanted = _outputs_and_grads(case, [t.double() for t in rounded], "naive")
        got = _outputs_and_grads(case, [t.to(device) for t in rounded], backend)
        assert all(g.dtype == dtype for g in got)
        return [((g.cpu().double() - w).norm() / w.norm()).item() for g, w in zip(got, wanted, strict=True)]

    return measure


def _outputs_and_grads(case: Case, tensors: list[torch.Tensor], backend: str | None) -> list[torch.Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = case.run(leaves, backend)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=generator).to(y)
    used = [t for t in leaves if t.numel()]
    return [y.detach(), *torch.autograd.grad(y, used, dy)]
