import pytest
import torch
from torch import nn

from kernels.gru import grouped_gru


def parts_of(count: int, features: int, hidden: int, bidirectional: bool, dtype=torch.float64) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(
        nn.GRU(features, hidden, batch_first=True, bidirectional=bidirectional) for _ in range(count)
    ).to(dtype)


def reference(x: torch.Tensor, parts: nn.ModuleList) -> tuple[torch.Tensor, torch.Tensor]:
    """torch's own GRUs on parts of the features of x [L, features, N]."""
    pieces = x.permute(2, 0, 1).chunk(len(parts), -1)
    results = [part(piece) for part, piece in zip(parts, pieces, strict=True)]
    outputs = torch.cat([y for y, _ in results], -1).permute(1, 2, 0)
    return outputs, torch.cat([last[0] for _, last in results], -1)


@pytest.mark.parametrize(
    "count, features, hidden, bidirectional, steps, sequences",
    [
        (1, 9, 32, False, 12, 3),
        (1, 4, 6, False, 1, 2),
        (2, 8, 8, False, 7, 700),
        (2, 8, 4, True, 33, 130),
        (3, 2, 5, True, 1, 1),
    ],
)
def test_outputs_and_all_gradients_are_those_of_torch(count, features, hidden, bidirectional, steps, sequences):
    parts = parts_of(count, features, hidden, bidirectional)
    x = torch.randn(steps, count * features, sequences, dtype=torch.float64)
    found = []
    for function in (reference, grouped_gru):
        parts.zero_grad()
        inputs = x.clone().requires_grad_()
        y, last = function(inputs, parts)
        weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        ((y * weight).sum() + last.square().sum()).backward()
        found.append([y.detach(), last.detach(), inputs.grad, *(p.grad.clone() for p in parts.parameters())])
    for ours, expected in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)


def test_registration_is_sound():
    """Shapes of the fake implementation, autograd, and no hidden changes of the inputs."""
    x = torch.randn(4, 2, 3, 5, requires_grad=True)
    weight = torch.randn(2, 4 * 6, 3 + 1 + 6, requires_grad=True)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.denoising_speech.gru.default, (x, weight), test_utils=tests)


def test_training_and_evaluation_agree():
    """A network trains through the grouped operator and is evaluated through torch's GRU."""
    from enhance.networks.layers import DualPathRNN

    torch.manual_seed(0)
    network, x = DualPathRNN(16, 33), torch.randn(2, 16, 5, 33)
    trained, after = network.train()(x, {})
    assert trained.requires_grad
    with torch.inference_mode():
        evaluated, expected = network.eval()(x, {})
    torch.testing.assert_close(trained.detach(), evaluated, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after["memory"].detach(), expected["memory"], atol=1e-5, rtol=1e-4)
