import errno

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kernels import text_step
from kernels.compiled import compiled, exp
from kernels.text_step import Layer, Norm, Product, Text

WIDTH, HEADS, WIDE = 32, 4, 48


def rounded(x: torch.Tensor, levels: int = 127) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers in double precision, and what each row's have to be multiplied by."""
    loudest = x.abs().amax(-1, keepdim=True)
    return (x * (levels / loudest)).round(), loudest / levels


class Reference:
    """A linear layer in 8 bits, by its definition."""

    def __init__(self, outputs: int, inputs: int):
        self.weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
        self.scale, self.bias = torch.rand(outputs) / inputs / 50, torch.randn(outputs)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        whole, step = rounded(x.double())
        return (whole @ self.weight.double().T * self.scale.double() * step + self.bias).float()

    def product(self) -> Product:
        scale = self.scale / 127
        return Product(self.weight.numpy(), scale.numpy(), self.bias.numpy(), np.float32(127), self)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def heads_of(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def attended(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(heads_of(query), keys, values, attn_mask=mask).transpose(1, 2).flatten(2)


class ReferenceLayer:
    """A layer of the decoder, all positions of all texts at once."""

    def __init__(self):
        self.norms = [(torch.rand(WIDTH) + 0.5, torch.randn(WIDTH)) for _ in range(3)]
        sizes = ((3 * WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDE, WIDTH), (WIDTH, WIDE))
        self.products = [Reference(*size) for size in sizes]

    def __call__(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        own, out, queries, speech_out, wider, narrower = self.products
        first, second, third = (lambda x, n=norm: F.layer_norm(x, (WIDTH,), *n) for norm in self.norms)
        query, key, value = own(first(x)).chunk(3, -1)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        x = x + out(attended(query, heads_of(key), heads_of(value), causal))
        x = x + speech_out(attended(queries(second(x)), keys, values, heard))
        return x + narrower(F.gelu(wider(third(x))))

    def layer(self) -> Layer:
        norms = [Norm(*(part.numpy() for part in norm)) for norm in self.norms]
        own, out, queries, speech_out, wider, narrower = (p.product() for p in self.products)
        return Layer(norms[0], own, out, norms[1], queries, speech_out, norms[2], wider, narrower)


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 1, 3]])
def test_layers_are_what_torch_makes_of_whole_texts(texts, pieces):
    """However the text is cut into pieces; of the speech, each hears its own frames alone."""
    layers, size, frames = [ReferenceLayer() for _ in range(2)], WIDTH // HEADS, torch.tensor([11, 6, 9][:texts])
    keys, values = (torch.randn(2, texts, HEADS, 11, size) for _ in range(2))
    heard = (torch.arange(11) < frames[:, None])[:, None, None]
    x = torch.randn(texts, 7, WIDTH)
    expected = x
    for layer, k, v in zip(layers, keys, values, strict=True):
        expected = layer(expected, k, v, heard)
    text, weights = Text(2, texts, HEADS, size), [layer.layer() for layer in layers]
    speech = [list(part.numpy()) for part in (keys, values)]
    parts = [
        torch.from_numpy(text_step.write(part.numpy().copy(), text, *speech, frames.numpy(), weights))
        for part in x.split(pieces, 1)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=2e-3, rtol=0)
    assert (torch.cat(parts, 1) - expected).abs().median() < 1e-5  # more is a whole number on the edge to the next


def test_several_texts_of_one_utterance_share_its_speech():
    layer, size = ReferenceLayer(), WIDTH // HEADS
    keys, values = (torch.randn(1, 1, HEADS, 5, size) for _ in range(2))
    x = torch.randn(2, 1, WIDTH)
    found = text_step.write(
        x.numpy().copy(), Text(1, 2, HEADS, size), list(keys.numpy()), list(values.numpy()), np.array([5]),
        [layer.layer()],
    )  # fmt: skip
    expected = layer(x, keys[0].expand(2, -1, -1, -1), values[0].expand(2, -1, -1, -1), torch.ones(1, 5).bool())
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=2e-3, rtol=0)


def test_a_text_has_room_for_any_length():
    text = Text(1, 2, 1, 1)
    for more in (1, 100, 30, 70):
        first = text.take(more)
        text.keys[0, :, 0, first : text.count, 0] = np.arange(first, text.count)
    assert text.count == 201
    assert (text.keys[0, :, 0, :201, 0] == np.arange(201)).all()
    text.rows(np.array([1, 1, 0]))
    assert text.keys.shape[1] == text.values.shape[1] == 3


@pytest.fixture
def states():
    """Rows of 1,000 states, what norms them and does nothing, and an output layer that gives them as they are."""
    norm = Norm(np.ones(1000, np.float32), np.zeros(1000, np.float32))
    x = F.layer_norm(torch.randn(3, 1000).pow(3), (1000,)).numpy()

    def output(count: int):
        return lambda x: x[:, :count].copy()

    return x, norm, output


def test_the_likeliest_output_and_its_probability(states):
    x, norm, output = states
    logits = torch.from_numpy(text_step.loops().normed(x, *norm))
    never = np.array([0, int(logits[1].argmax())])
    found, sure = text_step.likeliest(x, norm, output(1000), never)
    logits[:, never] = -torch.inf
    expected = logits.softmax(-1).max(-1)
    assert found.tolist() == expected.indices.tolist()
    torch.testing.assert_close(torch.from_numpy(sure), expected.values, rtol=1e-5, atol=0)


def test_rare_outputs_count_only_where_no_frequent_one_is_nearly_certain(states):
    x, norm, output = states
    x[:] = 0
    x[:, 700] = 10  # rare in all rows
    x[0, 3] = x[1, 3] = 9  # frequent and nearly certain among its like; in the last row none is
    x[1, 4] = 8.5  # but here there are two
    never = np.array([0])
    found, sure = text_step.likeliest(10 * x, norm, output(1000), never, output(100))
    assert found.tolist() == [3, 700, 700] and sure[0] > text_step.SURE
    whole, exact = text_step.likeliest(10 * x, norm, output(1000), never)
    assert whole.tolist() == [700] * 3
    np.testing.assert_allclose(sure[1:], exact[1:])


def test_gelu_and_exponential_are_as_near_as_single_precision():
    from kernels import text_step_loops

    @compiled
    def exponentials(x):
        for i in range(len(x)):
            x[i] = exp(x[i])

    x = -np.linspace(0, 100, 10_001, dtype=np.float32)
    found, expected = x.copy(), np.exp(x.astype(np.float64))
    exponentials(found)
    near = x > -80
    assert (np.abs(found / expected - 1)[near] < 1e-7 * (4 - x[near])).all()
    assert (found[~near] < 1e-34).all()
    y = np.linspace(-9, 9, 10_001, dtype=np.float32)[None]
    exact = F.gelu(torch.from_numpy(y).double()).numpy()
    text_step_loops.gelu(y)
    assert np.abs(y - exact).max() < 2e-6


def test_rows_of_zeros_give_the_bias():
    product = Reference(24, WIDTH).product()
    assert (product(np.zeros((1, WIDTH), np.float32)) == product.bias).all()


def test_a_full_disk_does_not_stop_compiled_loops(monkeypatch):
    from numba.core.caching import FunctionCache

    tried = []

    def full(self, sig, data):
        tried.append(sig)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FunctionCache, "save_overload", full)

    @compiled
    def doubled(x):
        for i in range(len(x)):
            x[i] = 2 * x[i]

    x = np.arange(3.0)
    doubled(x)
    assert tried and x.tolist() == [0, 2, 4]
