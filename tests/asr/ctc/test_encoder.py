"""The encoder and the CTC model: shapes at every length, independence of padding and of batch mates."""

import pytest
import torch

from asr.ctc.encoder import EncoderConfig
from asr.ctc.model import CTCModel
from asr.text.tokenizer import Tokenizer

TINY = EncoderConfig(width=32, heads=2, layers=(1, 1, 1), feed_forward=64, front_channels=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CTCModel.create(TINY, Tokenizer.train(["one two three", "two three four"], 40)).eval()


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 8, 9, 101])
def test_lengths(model, frames):
    log_probabilities, lengths = model(torch.randn(1, frames, 80), torch.tensor([frames]))
    assert lengths.tolist() == [-(-frames // 4)]
    assert log_probabilities.shape[1] >= lengths[0]
    assert torch.isfinite(log_probabilities).all()


def test_padding_and_batch_mates_change_nothing(model):
    generator = torch.Generator().manual_seed(1)
    short, long = torch.randn(61, 80, generator=generator), torch.randn(150, 80, generator=generator)
    alone, length = model(short[None], torch.tensor([61]))
    padded = torch.full((150, 80), 9.0)
    padded[:61] = short
    together, lengths = model(torch.stack([padded, long]), torch.tensor([61, 150]))
    valid = int(length[0])
    assert lengths.tolist() == [16, 38]
    torch.testing.assert_close(together[0, :valid], alone[0, :valid], rtol=1e-4, atol=1e-4)


def test_loss_and_gradients_reach_every_weight(model):
    model.train()
    texts = ["one two", "three four two"]
    tokens = [torch.tensor(model.tokenizer.encode(t)) for t in texts]
    characters = [torch.tensor(model.tokenizer.encode_characters(t)) for t in texts]
    batch = {
        "features": torch.randn(2, 200, 80),
        "lengths": torch.tensor([200, 160]),
        "tokens": torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
        "token_lengths": torch.tensor([len(t) for t in tokens]),
        "characters": torch.nn.utils.rnn.pad_sequence(characters, batch_first=True),
        "character_lengths": torch.tensor([len(c) for c in characters]),
    }
    loss, _ = model.loss(batch)
    loss.backward()
    model.eval()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert torch.isfinite(loss) and not silent


def test_save_and_load(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = CTCModel.from_pretrained(tmp_path).eval()
    features, lengths = torch.randn(1, 80, 80), torch.tensor([80])
    assert torch.equal(again(features, lengths)[0], model(features, lengths)[0])
    assert again.tokenizer.definition == model.tokenizer.definition
