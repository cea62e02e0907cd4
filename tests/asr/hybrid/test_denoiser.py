"""The denoiser on the hybrid decoder: what it starts as, what it may not depend on, what its caches save."""

import pytest
import torch

from asr.dllm.canvas import Canvas, Draft
from asr.dllm.loop import DenoisingOptions, denoise
from asr.dllm.slots import slots_in_time
from asr.hybrid.denoiser import EMPTY, MASK, SlotSizes, next_token
from asr.hybrid.model import HybridModel
from asr.hybrid.recogniser import hybrid_recogniser
from asr.recogniser import DecodeOptions

START = EMPTY


@pytest.fixture(scope="module")
def fresh(hybrid_folder):
    return HybridModel.from_pretrained(hybrid_folder).with_slots(SlotSizes()).eval()


@pytest.fixture(scope="module")
def trained(fresh):
    """With weights that are not at their start any more."""
    model = fresh.with_slots(SlotSizes()).eval()
    torch.manual_seed(1)
    for parameter in model.slots.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def speech():
    torch.manual_seed(0)
    return torch.randn(2, 40, 32), torch.tensor([40, 31])


def canvases(model, texts, frames=20):
    drafts = []
    for text in texts:
        tokens = model.tokenizer.encode(text)
        times = torch.linspace(0, frames - 1, len(tokens)).tolist()
        drafts.append(Draft(tokens, [0.5] * len(tokens), times, frames))
    return Canvas.of([slots_in_time(draft, EMPTY) for draft in drafts], EMPTY)


def logits(model, canvas, speech, **extra):
    denoiser = model.denoiser
    return denoiser.denoise(
        canvas.tokens, denoiser.remember(*speech), canvas.times, canvas.valid,
        guesses=canvas.tokens, sure=canvas.confidences, **extra,
    )  # fmt: skip


@torch.inference_mode()
def test_before_training_every_slot_says_what_the_decoder_says(fresh, speech):
    canvas = canvases(fresh, ["The cat sat"])
    speech = speech[0][:1], speech[1][:1]
    found = logits(fresh, canvas, speech)[0]
    text = [START, *fresh.tokenizer.encode("The cat sat")]
    said = fresh.decoder.denoise(torch.tensor([text]), fresh.decoder.remember(*speech))[0]
    before = 0
    others = [i for i in range(found.shape[-1]) if i != EMPTY]
    for slot, token in enumerate(canvas.tokens[0].tolist()):
        torch.testing.assert_close(found[slot, others], said[before, others])
        before += token != EMPTY


@torch.inference_mode()
def test_a_slot_hears_what_follows_it_once_trained(trained, speech):
    speech = speech[0][:1], speech[1][:1]
    a, b = (logits(trained, canvases(trained, [text]), speech) for text in ("The cat sat", "The cat mat"))
    assert not torch.allclose(a[0, 0], b[0, 0])


@torch.inference_mode()
def test_padding_changes_nothing(trained, speech):
    canvas = canvases(trained, ["The cat sat on the mat.", "Hello"])
    both = logits(trained, canvas, speech)
    for row, n in enumerate(canvas.valid.sum(1).tolist()):
        parts = (canvas.tokens, canvas.times, canvas.valid, canvas.confidences)
        tokens, times, valid, sure = (part[row : row + 1, :n] for part in parts)
        own = Canvas(tokens, times, valid, canvas.tail[:1], sure)
        frames = int(speech[1][row])
        alone = logits(trained, own, (speech[0][row : row + 1, :frames], speech[1][row : row + 1]))
        torch.testing.assert_close(both[row, :n], alone[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_what_the_decoder_has_read_is_not_read_again_and_says_the_same(trained, speech):
    model, cache = trained.denoiser, trained.denoiser.new_cache()
    remembered = model.remember(*speech)
    first = canvases(trained, ["The cat sat on the mat.", "Hello, world!"])
    lengths = []
    read = trained.decoder.states
    trained.decoder.states = lambda text, *rest: lengths.append(text.shape[1]) or read(text, *rest)
    try:
        for change in (None, first.tokens.shape[1] - 2):
            if change:
                first.tokens[0, change] = trained.tokenizer.encode("cat")[0]
            args = (first.tokens, remembered, first.times, first.valid)
            extra = {"guesses": first.tokens, "sure": first.confidences}
            cached = model.denoise(*args, cache=cache, **extra)
        assert lengths[1] < lengths[0]
        torch.testing.assert_close(cached, model.denoise(*args, **extra), atol=1e-4, rtol=1e-4)
    finally:
        del trained.decoder.states


@torch.inference_mode()
def test_active_slots_get_what_they_get_among_all(trained, speech):
    model, cache, canvas = trained.denoiser, trained.denoiser.new_cache(), canvases(trained, ["The cat sat", "Hello"])
    args = (canvas.tokens, model.remember(*speech), canvas.times, canvas.valid)
    extra = {"guesses": canvas.tokens, "sure": canvas.confidences, "cache": cache}
    everything = model.denoise(*args, **extra)
    active = torch.tensor([[1, 4], [0, 2]])
    some = model.denoise(*args, active=active, **extra)
    wanted = everything.gather(1, active.unsqueeze(-1).expand(-1, -1, everything.shape[-1]))
    torch.testing.assert_close(some, wanted, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("guesses", [True, False])
def test_saving_work_does_not_change_a_batch_much_and_ends_every_mask(trained, speech, guesses):
    canvas = canvases(trained, ["The cat sat on the mat.", "Hello"]).with_open(0.9, MASK)
    model = trained.denoiser
    remembered = model.remember(*speech)
    for early_exit in (True, False):
        options = DenoisingOptions(max_passes=3, early_exit=early_exit, guesses=guesses)
        result = denoise(model, remembered, canvas, options)
        assert all(MASK not in tokens and EMPTY not in tokens for tokens in result.tokens)
        assert int(result.passes.max()) <= 3


def test_the_next_token_is_the_first_behind_a_slot():
    is_token = torch.tensor([[False, True, False, False, True, False]])
    assert next_token(is_token).tolist() == [[1, 4, 4, 4, 6, 6]]


def test_a_model_without_slot_layers_says_how_to_get_them(hybrid_folder):
    with pytest.raises(ValueError, match="hybrid_denoiser"):
        _ = HybridModel.from_pretrained(hybrid_folder).denoiser


@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8"])
def test_a_recogniser_with_a_denoiser_decodes_with_it(trained, tmp_path, compute_type):
    trained.save_eight_bits(tmp_path / "model")
    recogniser = hybrid_recogniser(tmp_path / "model", compute_type=compute_type)
    waves = [torch.randn(16000).numpy() * 0.1, torch.randn(9000).numpy() * 0.1]
    for choices in ({}, {"guesses": False}, {"layout": "order"}, {"prior": "none", "length": 12}):
        found = recogniser.transcribe_batch(waves, DecodeOptions("dllm", denoising=choices))
        assert len(found) == 2
    seen = []
    recogniser.on_denoised = seen.append
    recogniser.transcribe_batch(waves, DecodeOptions("dllm"))
    assert seen[0].trace  # the view of the canvas gets the passes through the guard
    with pytest.raises(ValueError, match="elastic"):
        recogniser.transcribe_batch(waves, DecodeOptions("dllm", denoising={"elastic": 0.9}))
