"""The loss of tokens against its definition."""

import pytest
import torch

from asr.ar.greedy import IGNORED
from recipes.training.token_loss import token_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_mean_of_the_negative_logarithms_of_what_is_wanted(dtype):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 50).to(dtype)
    wanted = torch.tensor([[4, 49, IGNORED], [0, IGNORED, IGNORED]])
    said = torch.zeros(2, 3)
    for row, column in ((0, 0), (0, 1), (1, 0)):
        values = logits[row, column].double()
        said[row, column] = values.exp().sum().log() - values[wanted[row, column]]
    assert torch.allclose(token_loss(logits, wanted, "none"), said, atol=1e-5)
    assert float(token_loss(logits, wanted)) == pytest.approx(float(said.sum()) / 3, abs=1e-5)
