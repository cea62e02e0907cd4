import pytest
import torch
from torch import nn

from kernels.frame_norm import frame_norm


def layer(channels: int, bins: int) -> nn.LayerNorm:
    torch.manual_seed(0)
    norm = nn.LayerNorm((channels, bins))
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, -0.5, 1.5)
    return norm


@pytest.mark.parametrize("shape", [(2, 16, 70, 33), (1, 1, 3, 5), (3, 9, 4, 20)])
@pytest.mark.parametrize("used", ["both", "y", "energy"])
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_outputs_and_gradients_are_those_of_torch(shape, used, dtype, bound):
    x, found = 3 + 2 * torch.randn(shape, dtype=torch.float64), []
    for train, kind in ((False, torch.float64), (True, dtype)):
        norm = layer(shape[1], shape[3]).to(kind).train(train)
        leaf = x.to(kind, copy=True).requires_grad_()
        y, energy = frame_norm(leaf, norm)
        weighted = [(t * torch.linspace(-1, 2, t.numel()).view(t.shape)).sum() for t in (y, energy)]
        sum({"both": weighted, "y": weighted[:1], "energy": weighted[1:]}[used]).backward()
        found.append([y, energy, leaf.grad, norm.weight.grad, norm.bias.grad])
    for ours, expected in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=bound, atol=bound * expected.abs().max().item())


def test_without_training_it_is_the_layer_norm():
    norm, x = layer(4, 9).eval(), torch.randn(2, 4, 3, 9)
    y, energy = frame_norm(x, norm)
    torch.testing.assert_close(y[1, :, 2], norm(x[1, :, 2]))
    torch.testing.assert_close(energy[1, 2, 3], y[1, 3, 2].square().mean())


def test_registration_is_sound():
    x, norm = torch.randn(2, 3, 4, 5, requires_grad=True), layer(3, 5)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    operator = torch.ops.denoising_speech.frame_norm.default
    torch.library.opcheck(operator, (x, norm.weight, norm.bias, 1e-5), test_utils=tests)
