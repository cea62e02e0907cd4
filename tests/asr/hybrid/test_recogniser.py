import pytest
import torch

from asr.hybrid.recogniser import Guarded, HybridEncoder, cut_at_quiet, hybrid_recogniser
from asr.loading import load_recogniser
from asr.parts import Decoded, Listened
from asr.recogniser import DecodeOptions
from tests.asr.conftest import noise


@pytest.fixture(scope="module")
def recogniser(hybrid_folder):
    return load_recogniser(hybrid_folder, "cpu")


def certain(recogniser, text: str, gap: int = 2) -> torch.Tensor:
    """CTC log-probabilities that say a text for sure, a unit every `gap` frames."""
    units = recogniser.tokenizer.encode(text)
    path = [token for unit in units for token in (unit, *[0] * (gap - 1))]
    return torch.nn.functional.one_hot(torch.tensor(path), len(recogniser.tokenizer)).float().mul(20).log_softmax(-1)


def test_a_folder_with_a_branch_is_a_hybrid(recogniser):
    assert isinstance(recogniser.encoder, HybridEncoder)


@pytest.mark.parametrize("decoder", ["greedy", "beam", "ar", "speculative", "rescored"])
def test_every_decoder_gives_one_utterance_a_wave(recogniser, decoder):
    waves = [noise(0.7), noise(1.3, 1)]
    utterances = recogniser.transcribe_batch(waves, DecodeOptions(decoder))
    assert len(utterances) == 2
    for wave, utterance in zip(waves, utterances, strict=True):
        assert [w.text for w in utterance.words] == utterance.text.split()
        for word in utterance.words:
            assert 0 <= word.start <= word.end <= len(wave) / 16_000 + 0.05
            assert 0 <= word.confidence <= 1


def test_a_decoder_that_the_model_lacks_is_refused(recogniser):
    with pytest.raises(ValueError, match="this model has ar, speculative, rescored"):
        recogniser.transcribe_batch([noise(0.5)], DecodeOptions("fused"))


def guarded(recogniser, text: str, frames: torch.Tensor) -> str:
    """What is left of a text that a decoder wrote for such CTC log-probabilities."""
    vocabulary = recogniser.vocabulary

    class Writer:
        def __call__(self, heard):
            tokens = vocabulary.encode(text)
            return Decoded([tokens], [[0.9] * len(tokens)], torch.ones(1), torch.ones(1))

    Writer.vocabulary = vocabulary
    heard = Listened(torch.zeros(1, 1, 1), torch.ones(1), [frames])
    return vocabulary.decode(Guarded(Writer(), recogniser.tokenizer)(heard).tokens[0])


def test_text_that_ctc_does_not_support_gives_way_to_the_draft(recogniser):
    blank = torch.zeros(50, len(recogniser.tokenizer))
    blank[:, 0] = 20
    assert guarded(recogniser, "The cat sat on the mat.", blank.log_softmax(-1)) == ""
    said = certain(recogniser, "The cat sat on a mat.")
    assert guarded(recogniser, "The cat sat on the mat.", said) == "The cat sat on the mat."
    assert guarded(recogniser, "The", certain(recogniser, "The cat sat on the mat. " * 3)).startswith("The cat sat on")


def test_a_text_that_repeats_itself_is_cut_where_the_speech_ends(recogniser):
    said = certain(recogniser, "The cat sat on the mat.")
    assert guarded(recogniser, "The cat sat on the mat. " * 8, said) == "The cat sat on the mat."


def test_speculation_writes_what_the_decoder_writes(recogniser):
    waves = [noise(1.1, 3), noise(0.6, 4)]
    plain, checked = (recogniser.transcribe_batch(waves, DecodeOptions(d)) for d in ("ar", "speculative"))
    assert [u.text for u in plain] == [u.text for u in checked]


def test_words_of_a_written_text_have_its_own_scores_and_times(recogniser):
    from asr.ctc.timing import align_text

    frames = certain(recogniser, "The cat sat.")
    words = align_text(frames, "The cat sat.", recogniser.tokenizer, 0.04, scores=[-0.1, -0.7, -0.2])
    assert [w.text for w in words] == ["The", "cat", "sat."]
    assert [round(w.confidence, 2) for w in words] == [0.9, 0.5, 0.82]
    assert words[0].start < words[1].start < words[2].start


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8"])
def test_shorter_numbers_hear_nearly_the_same(hybrid_folder, compute_type):
    exact = hybrid_recogniser(hybrid_folder, compute_type="float32").listen([noise(1.0)]).posteriors[0]
    rounded = hybrid_recogniser(hybrid_folder, compute_type=compute_type).listen([noise(1.0)]).posteriors[0]
    assert (exact.exp() - rounded.exp()).abs().max() < 0.05


def test_what_is_longer_than_the_encoder_takes_is_cut_where_it_is_quiet(recogniser):
    longest = recogniser.encoder.longest
    wave = noise(2.5 * longest / 16_000)
    quiet = int(0.9 * longest)
    wave[quiet - 400 : quiet + 400] = 0
    pieces = cut_at_quiet(wave, longest)
    assert sum(map(len, pieces)) == len(wave) and max(map(len, pieces)) <= longest
    assert abs(len(pieces[0]) - quiet) < 400
    encoded = recogniser.encoder([wave, noise(1)])
    assert abs(int(encoded.lengths[0]) - len(wave) / 320) <= len(pieces)


def test_an_unknown_compute_type_is_named(hybrid_folder):
    with pytest.raises(ValueError, match="int4"):
        hybrid_recogniser(hybrid_folder, compute_type="int4")
