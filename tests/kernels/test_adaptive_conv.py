"""The public op on the CPU: correctness, streaming, autograd, torch.compile, export and its errors."""

import pytest
import torch
import torch.nn.functional as F

import kernels
from kernels import op


def _tensors(batch=2, c_in=4, c_out=4, groups=4, taps=(3, 3), frames=6, bins=9, candidates=3, dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(batch, c_in, frames, bins, dtype=dtype)
    attention = torch.randn(batch, frames, candidates, dtype=dtype).softmax(-1)
    weight = torch.randn(candidates, c_out, c_in // groups, *taps, dtype=dtype)
    return x, attention, weight, torch.randn(c_out, dtype=dtype)


def test_one_candidate_is_the_plain_convolution():
    x, _, weight, bias = _tensors(groups=2, candidates=1)
    y = kernels.adaptive_conv2d(x, torch.ones(2, 6, 1), weight, bias, stride=2, padding=1, groups=2, backend="naive")
    expected = F.conv2d(F.pad(x, (0, 0, 2, 0)), weight[0], bias, (1, 2), (0, 1), 1, 2)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("stride, padding, output_padding, groups", [(2, 2, 1, 1), (3, 0, 0, 2), (1, 1, 0, 4)])
@pytest.mark.parametrize("backend", ["naive", "cpu"])
def test_one_candidate_is_the_plain_transposed_convolution(stride, padding, output_padding, groups, backend):
    x = torch.randn(2, 4, 5, 7)
    weight, bias = torch.randn(1, 4, 3, 1, 5), torch.randn(3 * groups)
    y = kernels.adaptive_conv_transpose2d(
        x, torch.ones(2, 5, 1), weight, bias,
        stride=stride, padding=padding, output_padding=output_padding, groups=groups, backend=backend,
    )  # fmt: skip
    expected = F.conv_transpose2d(x, weight[0], bias, (1, stride), (0, padding), (0, output_padding), groups)
    torch.testing.assert_close(y, expected)


def test_definition_frame_by_frame():
    x, attention, weight, bias = _tensors(groups=1, c_out=2)
    y = kernels.adaptive_conv2d(x, attention, weight, bias, padding=1, backend="naive")
    mixed = torch.einsum("k,kocij->ocij", attention[1, 4], weight)
    frame = F.conv2d(x[1:, :, 2:5], mixed, bias, padding=(0, 1))
    torch.testing.assert_close(y[1:, :, 4:5], frame)


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("backend", ["cpu", "compiled"])
def test_cpu_outputs_and_gradients(case, backend, dtype, bound, relative_errors, poisoned):
    assert max(relative_errors(case, backend, dtype)) < bound


def test_threads_share_the_utterances(case, relative_errors):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    errors = relative_errors(case, "compiled")
    torch.set_num_threads(threads)
    assert max(errors) < 1e-5


def test_cpu_blocks_of_frames_join_seamlessly(case, monkeypatch, relative_errors, poisoned):
    monkeypatch.setattr(kernels.cpu, "BLOCK_ELEMENTS", 1)
    assert max(relative_errors(case, "cpu")) < 1e-5


def test_gradcheck_of_both_operators():
    x, attention, weight, bias = (t.requires_grad_() for t in _tensors(1, 2, 2, 2, (2, 3), 3, 5, 2, torch.float64))
    assert torch.autograd.gradcheck(
        lambda *t: kernels.adaptive_conv2d(*t, stride=2, padding=1, groups=2), (x, attention, weight, bias)
    )
    one_tap = weight.detach()[:, :, :, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *t: kernels.adaptive_conv_transpose2d(*t, stride=2, padding=1, groups=2),
        (x, attention, one_tap, bias),
    )


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_stream_equals_offline(chunk):
    x, attention, weight, bias = _tensors(frames=11)
    whole = kernels.adaptive_conv2d(x, attention, weight, bias, padding=1, groups=4)
    past, parts = torch.zeros(2, 4, 2, 9), []
    for t in range(0, 11, chunk):
        now = x[:, :, t : t + chunk]
        mixture = attention[:, t : t + chunk]
        parts.append(kernels.adaptive_conv2d(now, mixture, weight, bias, padding=1, groups=4, past=past))
        past = torch.cat((past, now), 2)[:, :, -2:]
    torch.testing.assert_close(torch.cat(parts, 2), whole)


def test_future_frames_do_not_matter():
    x, attention, weight, bias = _tensors()
    before = kernels.adaptive_conv2d(x, attention, weight, bias, padding=1, groups=4)
    x[:, :, 4:], attention[:, 4:] = 9.0, 0.5
    after = kernels.adaptive_conv2d(x, attention, weight, bias, padding=1, groups=4)
    torch.testing.assert_close(after[:, :, :4], before[:, :, :4])
    assert not torch.allclose(after[:, :, 4:], before[:, :, 4:])


def test_registered_operators_pass_torchs_own_checks():
    x, attention, weight, bias = _tensors()
    leaves = [t.requires_grad_() for t in (x, attention, weight, bias)]
    torch.library.opcheck(op._conv, (*leaves, 1, 1, 4, "cpu"))
    dy = torch.randn(2, 4, 6, 9, requires_grad=True)
    torch.library.opcheck(op._input_grad, (dy, attention, weight, 6, 9, 1, 1, 4, "cpu"))
    torch.library.opcheck(op._conv, (*leaves, 1, 1, 4, "compiled"))


@pytest.mark.parametrize("frames", [1, 6])
def test_compiles_without_graph_breaks(frames):
    x, attention, weight, bias = (t.requires_grad_() for t in _tensors(frames=frames))

    def layer(x, attention, weight, bias):
        y = kernels.adaptive_conv2d(x, attention, weight, bias, padding=1, groups=4).relu()
        return kernels.adaptive_conv_transpose2d(y, attention, weight[:, :, :, :1], stride=2, groups=4)

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    wanted, got = layer(x, attention, weight, bias), compiled(x, attention, weight, bias)
    torch.testing.assert_close(got, wanted)
    leaves = (x, attention, weight, bias)
    torch.testing.assert_close(
        torch.autograd.grad(got.square().sum(), leaves), torch.autograd.grad(wanted.square().sum(), leaves)
    )


class _Layer(torch.nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)

    def forward(self, x, attention):
        return kernels.adaptive_conv2d(x, attention, self.weight, self.bias, padding=1, groups=4)


def test_exports_with_any_number_of_frames():
    x, attention, weight, bias = _tensors()
    layer = _Layer(weight, bias)
    frames = torch.export.Dim("frames", min=2)
    program = torch.export.export(layer, (x, attention), dynamic_shapes=({2: frames}, {1: frames}))
    assert "adaptive_conv2d" in str(program.graph)
    longer = torch.randn(2, 4, 13, 9), torch.randn(2, 13, 3).softmax(-1)
    torch.testing.assert_close(program.module()(*longer), layer(*longer))


def test_environment_chooses_the_backend_and_the_argument_wins(monkeypatch):
    x, attention, weight, bias = _tensors()
    calls = []
    monkeypatch.setattr(kernels.naive, "conv2d", lambda *args: calls.append("naive"))
    monkeypatch.setenv("ADAPTIVE_CONV_BACKEND", "naive")
    kernels.adaptive_conv2d(x, attention, weight, bias, groups=4)
    kernels.adaptive_conv2d(x, attention, weight, bias, groups=4, backend="cpu")
    assert calls == ["naive"]


def test_only_training_takes_the_compiled_loops():
    x, attention, weight, _ = _tensors()
    assert op._choose_backend(None, x, weight) == "cpu"
    assert op._choose_backend(None, x, weight.requires_grad_()) == "compiled"
    with torch.inference_mode():
        assert op._choose_backend(None, x, weight) == "cpu"


def test_a_backend_that_cannot_serve_says_why(monkeypatch):
    x, attention, weight, _ = _tensors()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="'fast'; it must be one of naive, cpu, compiled, triton"):
        kernels.adaptive_conv2d(x, attention, weight, groups=4, backend="fast")
    with pytest.raises(ValueError, match="float64: use backend='naive' or 'cpu'"):
        kernels.adaptive_conv2d(x.double(), attention, weight, groups=4, backend="triton")
    with pytest.raises(ValueError, match="needs CUDA tensors, x is on cpu"):
        kernels.adaptive_conv2d(x, attention, weight, groups=4, backend="triton")
    monkeypatch.setattr(op, "_triton_installed", lambda: False)
    with pytest.raises(ValueError, match="install it, or use backend='cpu'"):
        kernels.adaptive_conv2d(x, attention, weight, groups=4, backend="triton")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(attention=torch.ones(2, 5, 3)), r"need \[B, T, K\] = \[2, 6, 3\]"),
        (dict(weight=torch.ones(3, 4, 2, 3, 3)), "x has 4 channels"),
        (dict(weight=torch.ones(4, 1, 3, 3)), "expected x"),
        (dict(bias=torch.ones(3)), "4 output channels"),
        (dict(past=torch.ones(2, 4, 1, 9)), r"kt - 1 frames before x, \[2, 4, 2, 9\]"),
        (dict(stride=0), "stride 0"),
        (dict(x=torch.ones(2, 4, 6, 2)), "raise padding"),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    x, attention, weight, bias = _tensors()
    arguments = dict(x=x, attention=attention, weight=weight, bias=bias, groups=4) | change
    with pytest.raises(ValueError, match=message):
        kernels.adaptive_conv2d(**arguments)


def test_transposed_takes_one_time_tap():
    x, attention, weight, _ = _tensors()
    with pytest.raises(ValueError, match="3 time taps; the transposed convolution takes one"):
        kernels.adaptive_conv_transpose2d(x, attention, weight, groups=4)
    with pytest.raises(ValueError, match="output_padding 2 must be at least 0 and less than stride 2"):
        kernels.adaptive_conv_transpose2d(x, attention, weight[..., :1, :], stride=2, output_padding=2, groups=4)
