"""The decoder on compiled loops writes what the decoder of torch writes."""

import pytest
import torch

from asr.ar.greedy import decode_greedily, decode_speculatively
from asr.hybrid.linear8 import in_eight_bits
from asr.hybrid.model import HybridModel
from asr.hybrid.stepping import SteppingDecoder


@pytest.fixture
def decoder(hybrid_folder):
    torch.manual_seed(0)
    return in_eight_bits(HybridModel.from_pretrained(hybrid_folder).decoder.eval())


@pytest.fixture
def speech(decoder):
    return decoder.remember(torch.randn(3, 60, decoder.sizes.width), torch.tensor([60, 41, 17]))


def some_tokens(decoder, *shape: int) -> torch.Tensor:
    return torch.randint(4, decoder.sizes.vocabulary, shape)


@torch.inference_mode()
@pytest.mark.parametrize("pieces", [[9], [1] * 9, [2, 5, 2]])
def test_logits_are_those_of_the_decoder(decoder, speech, pieces):
    tokens, stepping = some_tokens(decoder, 3, 9), SteppingDecoder(decoder, pays_after=0)
    cache = stepping.new_cache()
    found = torch.cat([stepping.extend(part, speech, cache) for part in tokens.split(pieces, 1)], 1)
    torch.testing.assert_close(found, decoder.denoise(tokens, speech), atol=1e-2, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("pays_after", [0, 1000])
def test_texts_can_be_cut_and_chosen(decoder, speech, pays_after):
    tokens, stepping = some_tokens(decoder, 3, 6), SteppingDecoder(decoder, pays_after)
    cache = stepping.new_cache()
    stepping.extend(tokens, speech, cache)
    cache.crop(4)
    index = torch.tensor([2, 0])
    cache.rows(index)
    more = some_tokens(decoder, 2, 1)
    found = stepping.extend(more, speech.rows(index), cache)
    whole = torch.cat((tokens[index, :4], more), 1)
    expected = decoder.denoise(whole, speech.rows(index))[:, -1:]
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


@torch.inference_mode()
def test_texts_are_the_same_before_the_loops_take_over_and_behind(decoder, speech):
    expected = decode_greedily(decoder, speech)
    stepping = SteppingDecoder(decoder, pays_after=1)
    for _ in range(2):
        found = decode_greedily(stepping, speech)
        assert found.tokens == expected.tokens
        for ours, theirs in zip(found.confidences, expected.confidences, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-2)
    assert stepping.left <= 0


@torch.inference_mode()
def test_looking_at_frequent_tokens_first_takes_only_sure_ones(decoder, speech):
    """A decoder that was never trained is sure of nothing; one whose scores are far apart is."""
    whole, first = SteppingDecoder(decoder, 0, frequent=0), SteppingDecoder(decoder, 0, frequent=8)
    assert whole.weights()[3] is None and first.weights()[3] is not None
    assert decode_greedily(first, speech).tokens == decode_greedily(whole, speech).tokens
    first.weights()[3].scale[:] *= 1e5  # of what single positions are computed with
    (tokens,) = decode_greedily(first, speech.rows(torch.tensor([0]))).tokens
    assert tokens and max(tokens) < 8


@torch.inference_mode()
def test_a_verified_draft_gives_the_same_text(decoder, speech):
    one, stepping = speech.rows(torch.tensor([0])), SteppingDecoder(decoder, pays_after=0)
    (written,) = decode_greedily(stepping, one).tokens
    draft = [*written[:2], 5, *written[2:]]
    assert decode_speculatively(stepping, one, draft).tokens == [written]


@torch.inference_mode()
def test_a_text_longer_than_the_decoder_takes_is_refused(decoder, speech):
    stepping = SteppingDecoder(decoder, pays_after=0)
    with pytest.raises(ValueError, match="the decoder takes"):
        stepping.extend(some_tokens(decoder, 3, decoder.sizes.longest + 1), speech, stepping.new_cache())
