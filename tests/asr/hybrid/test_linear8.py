"""Layers in 8 bits: close to exact, and the same alone as in a batch."""

import pytest
import torch
from torch import nn

from asr.hybrid.encoder import Attention, attend
from asr.hybrid.linear8 import Linear8, in_eight_bits
from asr.hybrid.model import HybridModel


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_layers_of_one_input_follow_one_another():
    first, second = nn.Linear(64, 24), nn.Linear(64, 40, bias=False)
    x = torch.randn(3, 5, 64) * torch.tensor([0.01, 1.0, 100.0])[:, None, None]  # each row has a scale of its own
    found, expected = Linear8(first, second)(x), torch.cat((first(x), second(x)), -1)
    weighted = expected - torch.cat((first.bias, torch.zeros(40)))
    error = (found - expected).square().mean((1, 2)) / weighted.square().mean((1, 2))
    assert error.max() < 0.02**2


def test_a_row_is_the_same_alone_as_in_a_batch():
    layer, x = Linear8(nn.Linear(64, 24)), torch.randn(8, 64) * torch.logspace(-3, 3, 8)[:, None]
    assert torch.equal(torch.cat([layer(row[None]) for row in x]), layer(x))


def test_weights_that_were_stored_in_eight_bits_lose_nothing():
    from asr.eight_bits import quantised, restored

    layer = nn.Linear(64, 24, bias=False)
    stored = quantised({"weight": layer.weight.detach()})
    layer.load_state_dict(restored(stored))
    assert torch.equal(Linear8(layer).packed.unpack()[0].int_repr(), stored["weight"])


def test_rows_of_zeros_give_the_bias():
    layer = nn.Linear(64, 24)
    assert torch.equal(Linear8(layer)(torch.zeros(2, 64)), layer.bias.expand(2, 24).detach())


@torch.inference_mode()
def test_attention_in_eight_bits_attends_to_the_same():
    exact = Attention(64, 4).eval()
    rounded, x = in_eight_bits(exact), torch.randn(2, 30, 64)
    for own, theirs in zip(rounded.project(x), exact.project(x), strict=True):
        torch.testing.assert_close(own, theirs, atol=0.05, rtol=0)
    torch.testing.assert_close(rounded(x, *rounded.keys_values(x)), exact(x, *exact.keys_values(x)), atol=0.05, rtol=0)


@torch.inference_mode()
def test_a_text_is_judged_the_same_alone_as_in_a_batch(hybrid_folder):
    decoder = in_eight_bits(HybridModel.from_pretrained(hybrid_folder).decoder.eval())
    hidden, lengths = torch.randn(3, 60, 32), torch.tensor([60, 41, 17])
    tokens = torch.randint(4, decoder.sizes.vocabulary, (3, 7))
    together = decoder.denoise(tokens, decoder.remember(hidden, lengths))
    for i, n in enumerate(lengths.tolist()):
        alone = decoder.denoise(tokens[i : i + 1], decoder.remember(hidden[i : i + 1, :n], lengths[i : i + 1]))
        torch.testing.assert_close(together[i], alone[0], atol=0.02, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 3, 40])
def test_few_queries_attend_as_many_do_and_texts_share_an_utterance(count):
    query, key, value = torch.randn(4, 2, count, 16), torch.randn(1, 2, 30, 16), torch.randn(1, 2, 30, 16)
    mask = torch.rand(1, 1, 1, 30) > 0.3
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(attend(query, key, value, mask), expected)


@torch.inference_mode()
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_convolution_in_eight_bits_hears_the_same(kernel, stride):
    exact = nn.Conv1d(40, 40, kernel, stride=stride, padding=kernel // 2)
    x = torch.randn(2, 40, 31)
    torch.testing.assert_close(in_eight_bits(exact)(x), exact(x), atol=0.05, rtol=0)


def test_a_busy_processor_does_not_change_the_number_format(monkeypatch):
    from asr.hybrid import precision

    ways = iter(["float32", "int8"])
    monkeypatch.setattr(precision, "fastest", lambda types: next(ways))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    assert [precision.best_on_cpu() for _ in range(3)] == ["int8"] * 3
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": False})
    assert [precision.best_on_cpu() for _ in range(2)] == ["float32", "int8"]
