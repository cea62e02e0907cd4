import pytest
import torch
from torch import nn

from enhance.networks.adapt import adapt_convolutions
from enhance.networks.adaptive import AdaptiveConv2d, JointAttention, KernelBank

KINDS = {
    "depthwise": {"in_channels": 6, "out_channels": 6, "kernel_size": (3, 3), "padding": 1, "groups": 6},
    "pointwise": {"in_channels": 6, "out_channels": 4, "kernel_size": 1},
    "grouped": {"in_channels": 6, "out_channels": 4, "kernel_size": (2, 3), "padding": (0, 1), "groups": 2},
    "dense strided": {"in_channels": 6, "out_channels": 5, "kernel_size": (3, 5), "stride": (1, 2), "padding": 2},
    "dilated": {"in_channels": 6, "out_channels": 6, "kernel_size": 3, "padding": 1, "dilation": (2, 1), "groups": 3},
    "transposed": {"in_channels": 6, "out_channels": 4, "kernel_size": (1, 5), "stride": (1, 2), "padding": (0, 2),
                   "groups": 2, "transposed": True},
    "no bias": {"in_channels": 6, "out_channels": 4, "kernel_size": 3, "padding": 1, "bias": False},
}  # fmt: skip


@pytest.fixture(params=KINDS)
def layer_options(request):
    torch.manual_seed(0)
    return KINDS[request.param]


@pytest.mark.parametrize("attention", ["single", "multi", "gru"])
@pytest.mark.parametrize("channel_attention", [False, True])
def test_chunks_give_what_the_whole_gives(layer_options, attention, channel_attention):
    layer = AdaptiveConv2d(**layer_options, attention=attention, channel_attention=channel_attention)
    x, state, chunks = torch.randn(2, 6, 11, 9), None, []
    for chunk in x.split([1, 1, 4, 5], 2):
        y, state = layer.stream(chunk, state)
        chunks.append(y)
    torch.testing.assert_close(torch.cat(chunks, 2), layer(x), atol=1e-5, rtol=1e-5)


def test_future_frames_do_not_matter(layer_options):
    layer = AdaptiveConv2d(**layer_options)
    x = torch.randn(1, 6, 10, 9)
    disturbed = x.clone()
    disturbed[:, :, 6:] += 1
    difference = (layer(x) - layer(disturbed)).abs().amax((0, 1, 3))
    assert difference[:6].max() == 0 and difference[6] > 0


def test_each_frame_is_convolved_with_its_mixture_of_candidates(layer_options):
    """Against torch's own convolution with the kernel of one frame."""
    layer = AdaptiveConv2d(**layer_options, num_kernels=3)
    bank, x, frame = layer.bank, torch.randn(1, 6, 9, 9), 7
    weights = layer.attention(x).kernels[0]
    assert weights[0, frame].std() > 0
    kernel = torch.einsum("k,k...->...", weights[0, frame], bank.weight)
    if bank.transposed:
        y = nn.functional.conv_transpose2d(x, kernel, bank.bias, (1, 2), (0, 2), groups=bank.groups)
    else:
        padded = nn.functional.pad(x, (0, 0, bank.context, 0))
        y = nn.functional.conv2d(
            padded, kernel, bank.bias, (1, bank.stride), (0, bank.padding), (bank.dilation, 1), bank.groups
        )
    torch.testing.assert_close(layer(x)[:, :, frame], y[:, :, frame], atol=1e-5, rtol=1e-5)


def test_batch_norm_is_absorbed_exactly(layer_options):
    options = dict(layer_options)
    kernel_size, stride, padding = (
        options.pop("kernel_size"),
        options.pop("stride", 1),
        options.pop("padding", 0),
    )
    kernel_size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    options["dilation"] = options.get("dilation", (1, 1))[0]
    padding = padding if isinstance(padding, int) else padding[1]
    bank = KernelBank(
        kernel_size=kernel_size, stride=stride[1] if stride != 1 else 1, padding=padding, **options
    )
    norm = nn.BatchNorm2d(bank.out_channels).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, weights = torch.randn(2, 6, 5, 9), torch.rand(2, 5, 8).softmax(-1)
    expected = norm(bank(x, weights))
    bank.absorb(norm)
    torch.testing.assert_close(bank(x, weights), expected, atol=1e-5, rtol=1e-4)


def test_joint_attention_selects_for_every_layer():
    attention = JointAttention(4, num_layers=3, num_kernels=5, gates=(4, 7))
    selection = attention(torch.randn(2, 4, 6, 8))
    assert [w.shape for w in selection.kernels] == [(2, 6, 5)] * 3
    assert [g.shape for g in selection.gates] == [(2, 4, 6, 1), (2, 7, 6, 1)]
    torch.testing.assert_close(selection.kernels[0].sum(-1), torch.ones(2, 6))
    assert not torch.allclose(selection.kernels[0], selection.kernels[1])


class Separable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, (1, 5), stride=(1, 2), padding=(0, 2), groups=8),
            nn.ConvTranspose2d(8, 2, (1, 4), stride=(1, 2), padding=(0, 1)),
        )  # fmt: skip
        self.pooling = nn.Conv2d(2, 2, 3, stride=2)

    def forward(self, x):
        return self.pooling(self.layers(x))


def test_swapping_keeps_the_function_and_trains_every_candidate():
    network, x = Separable(), torch.randn(2, 2, 7, 16)
    expected = network(x)
    adapt_convolutions(network, num_kernels=4)
    assert sum(isinstance(m, AdaptiveConv2d) for m in network.modules()) == 3
    assert isinstance(network.pooling, nn.Conv2d)  # changes the frame rate
    torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)
    network(x).square().sum().backward()
    gradient = network.layers[2].bank.weight.grad
    assert (gradient.flatten(1).norm(dim=1) > 0).all() and not torch.allclose(gradient[0], gradient[1])


def test_swapping_can_be_restricted():
    network = adapt_convolutions(Separable(), select=lambda name, layer: layer.groups > 1)
    assert [name for name, m in network.named_modules() if isinstance(m, AdaptiveConv2d)] == ["layers.2"]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AdaptiveConv2d(2, 2, 3, stride=(2, 1)), "time stride is 2"),
        (lambda: AdaptiveConv2d(2, 2, 3, dilation=(1, 2)), "frequency dilation is 2"),
        (lambda: AdaptiveConv2d(2, 2, 3, transposed=True), "3 time taps"),
        (lambda: AdaptiveConv2d(2, 2, 3, attention="spatial"), "'spatial'"),
        (lambda: adapt_convolutions(nn.Linear(2, 2)), "no convolution"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
