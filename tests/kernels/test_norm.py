import copy

import pytest
import torch
from torch import nn

from kernels.norm import norm_prelu


def modules(channels: int, slopes: int, dtype=torch.float64) -> nn.ModuleList:
    torch.manual_seed(0)
    parts = nn.ModuleList((nn.BatchNorm2d(channels), nn.PReLU(slopes)))
    for parameter in parts.parameters():
        nn.init.uniform_(parameter, 0.2, 1.5)
    return parts.to(dtype)


def plain(x: torch.Tensor, norm: nn.BatchNorm2d, activation: nn.PReLU, gate: torch.Tensor | None) -> torch.Tensor:
    y = activation(norm(x))
    return y if gate is None else y * gate


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape, slopes", [((3, 4, 5, 33), 4), ((4, 2, 1, 1), 1), ((2, 16, 7, 20), 1)])
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_outputs_gradients_and_statistics_are_those_of_torch(shape, slopes, gated, dtype, bound):
    x = 3 + 2 * torch.randn(shape, dtype=torch.float64)
    gate = torch.rand(*shape[:3], 1, dtype=torch.float64) if gated else None
    found = []
    for function, kind in ((plain, torch.float64), (norm_prelu, dtype)):
        parts = modules(shape[1], slopes, kind)
        leaves = [t.to(kind, copy=True).requires_grad_() for t in (x, gate) if t is not None]
        y = function(leaves[0], *parts, leaves[1] if gated else None)
        (y * torch.linspace(-1, 2, y.numel()).view(y.shape)).sum().backward()
        norm = parts[0]
        found.append([y, *(t.grad for t in (*leaves, *parts.parameters())), norm.running_mean, norm.running_var])
        assert norm.num_batches_tracked == 1
    for ours, expected in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=bound, atol=bound * expected.abs().max().item())


def test_gradients_of_a_gate_that_is_a_slice_of_something_transposed():
    x, wide = torch.randn(2, 4, 6, 33, dtype=torch.float64), torch.rand(2, 6, 10, dtype=torch.float64)
    found = []
    for function in (plain, norm_prelu):
        leaf = wide.clone().requires_grad_()
        gate = leaf[..., 3:7].transpose(1, 2).unsqueeze(-1)
        function(x, *modules(4, 4), gate).square().sum().backward()
        found.append(leaf.grad)
    torch.testing.assert_close(*reversed(found))


def test_the_variance_of_numbers_far_from_zero():
    x, parts = (1000 + torch.randn(2, 3, 40, 33)), modules(3, 3, torch.float32)
    expected = plain(x.double(), *copy.deepcopy(parts).double(), None)
    assert (norm_prelu(x, *parts) - expected).abs().max() < 1e-2


def test_without_training_the_modules_do_their_own_work():
    parts, x = modules(4, 4), torch.randn(2, 4, 3, 9, dtype=torch.float64)
    norm_prelu(x, *parts)
    gate, mean = torch.rand(2, 4, 3, 1, dtype=torch.float64), parts[0].running_mean.clone()
    torch.testing.assert_close(norm_prelu(x, *parts.eval(), gate), plain(x, *parts, gate))
    torch.testing.assert_close(norm_prelu(x, nn.Identity(), parts[1]), parts[1](x))
    assert parts[0].running_mean.equal(mean)


@pytest.mark.parametrize("gated", [False, True])
def test_registration_is_sound(gated):
    x, gate = torch.randn(2, 3, 4, 5, requires_grad=True), torch.rand(2, 3, 4, requires_grad=True)
    weights = [torch.rand(3, requires_grad=True) for _ in range(3)]
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    operator = torch.ops.denoising_speech.norm_prelu.default
    torch.library.opcheck(operator, (x, *weights, gate if gated else None, 1e-5), test_utils=tests)
