"""The parts that start from Whisper compute what transformers' Whisper computes."""

import torch

from asr.hybrid.model import HybridModel
from asr.hybrid.start import prompt_tokens


def hybrid_and_whisper(hybrid_folder, whisper_folder):
    from transformers import WhisperForConditionalGeneration

    source = WhisperForConditionalGeneration.from_pretrained(whisper_folder, attn_implementation="eager").eval()
    return HybridModel.from_pretrained(hybrid_folder).eval(), source


@torch.inference_mode()
def test_encoder_at_full_length_is_whispers(hybrid_folder, whisper_folder):
    model, whisper = hybrid_and_whisper(hybrid_folder, whisper_folder)
    features = torch.randn(2, 400, 80)
    states, lengths = model.encoder(features, torch.tensor([400, 400]))
    expected = whisper.model.encoder(features.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(states[-1], expected, atol=1e-4, rtol=1e-4)
    assert lengths.tolist() == [200, 200]


@torch.inference_mode()
def test_the_text_starts_behind_whispers_prompt_and_gets_whispers_logits(hybrid_folder, whisper_folder):
    from transformers import AutoTokenizer

    model, whisper = hybrid_and_whisper(hybrid_folder, whisper_folder)
    hidden = torch.randn(1, 200, 32)
    whole = AutoTokenizer.from_pretrained(whisper_folder)
    theirs = whole(" The cat sat.", add_special_tokens=False).input_ids
    ours = model.tokenizer.encode("The cat sat.")
    speech = model.decoder.remember(hidden, torch.tensor([200]))
    logits = model.decoder.denoise(torch.tensor([[model.tokenizer.null_id, *ours]]), speech)
    prompt = whole.convert_tokens_to_ids(["<|startoftranscript|>", "<|notimestamps|>"])
    expected = whisper(encoder_outputs=(hidden,), decoder_input_ids=torch.tensor([prompt + theirs])).logits[:, 1:]
    torch.testing.assert_close(logits[..., ours], expected[..., theirs], atol=1e-4, rtol=1e-4)


class Spelling:
    """A tokenizer that knows some names."""

    def __init__(self, *names):
        self.names = names

    def get_vocab(self):
        return {name: i for i, name in enumerate(self.names)}


def test_a_multilingual_whisper_is_told_to_transcribe_english():
    whole = Spelling("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    assert prompt_tokens(51864, whole) == [0]  # English models know the names of languages too, and do not use them
    assert prompt_tokens(51865, whole) == [0, 1, 2]


@torch.inference_mode()
def test_a_result_does_not_depend_on_the_batch(hybrid_folder):
    model = HybridModel.from_pretrained(hybrid_folder).eval()
    waves = [torch.randn(n) * 0.1 for n in (7_000, 16_001, 24_500)]
    hidden, frames, posteriors, steps = model(*model.features(waves))
    for i, wave in enumerate(waves):
        alone, n, own, m = model(*model.features([wave]))
        assert (int(frames[i]), int(steps[i])) == (int(n), int(m)) == (alone.shape[1], own.shape[1])
        torch.testing.assert_close(hidden[i, : int(n)], alone[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(posteriors[i, : int(m)], own[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_token_by_token_is_all_at_once(hybrid_folder):
    model = HybridModel.from_pretrained(hybrid_folder).eval()
    speech = model.decoder.remember(torch.randn(2, 50, 32), torch.tensor([50, 31]))
    tokens = torch.randint(4, len(model.tokenizer), (2, 9))
    cache, parts = model.decoder.new_cache(), []
    for first, last in ((0, 1), (1, 2), (2, 6), (6, 9)):
        parts.append(model.decoder.extend(tokens[:, first:last], speech, cache))
    torch.testing.assert_close(torch.cat(parts, 1), model.decoder.denoise(tokens, speech), atol=1e-4, rtol=1e-4)
