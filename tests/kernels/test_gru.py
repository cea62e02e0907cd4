import pytest
import torch
from torch import nn

from kernels.gru import grouped_gru, pays


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


@pytest.mark.parametrize("count, sequences", [(1, 8), (1, 16), (2, 300)])
@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_single_precision_is_as_near_as_torchs(count, sequences, scale):
    """Few and many sequences, gates that move and gates that are full."""
    parts, x = parts_of(count, 8, 32, False), scale * torch.randn(40, count * 8, sequences, dtype=torch.float64)
    expected, _ = reference(x, parts)
    y, _ = grouped_gru(x.float(), parts.float())
    assert (y - expected).abs().max() < 5e-6


def test_threads_share_the_sequences():
    parts, x = parts_of(2, 8, 4, True), torch.randn(5, 16, 150, dtype=torch.float64)
    found, threads = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        parts.zero_grad()
        inputs = x.clone().requires_grad_()
        grouped_gru(inputs, parts)[0].square().sum().backward()
        found.append([inputs.grad, *(p.grad.clone() for p in parts.parameters())])
    torch.set_num_threads(threads)
    torch.testing.assert_close(found[1], found[0])


def test_what_the_loops_cannot_take_goes_the_plain_way():
    part, x = nn.GRU(4, 6), torch.randn(3, 2, 4)
    assert pays(part, x, None)
    assert not pays(part.eval(), x, None) and not pays(part.train(), x, torch.zeros(2, 6))
    assert not pays(part.bfloat16(), x, None) and not pays(part.float(), x.to("meta"), None)


def test_registration_is_sound():
    """Shapes of the fake implementation, autograd, and no hidden changes of the inputs."""
    x = torch.randn(4, 2, 3, 5, requires_grad=True)
    weights = [torch.randn(4, *shape, requires_grad=True) for shape in ((18, 3), (18, 6), (24,))]
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.denoising_speech.gru.default, (x, *weights, 2), test_utils=tests)


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
