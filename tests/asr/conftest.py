"""A Whisper small enough to make on the spot, and the hybrid recogniser that starts from it."""

import numpy as np
import pytest
import torch

SENTENCES = [
    "The cat sat on the mat.",
    "Hello, world! It's 23 o'clock, isn't it?",
    "Mr. Quilter is the apostle of the middle classes.",
    "We are glad to welcome his gospel.",
]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """White noise at 16 kHz."""
    return (np.random.default_rng(seed).standard_normal(int(16_000 * seconds)) * 0.1).astype(np.float32)


def waves(*seconds: float) -> list[np.ndarray]:
    """Different noise of each duration."""
    return [noise(duration, seed) for seed, duration in enumerate(seconds)]


def byte_level_tokenizer():
    """Byte-level pairs learned from the sentences, with Whisper's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([" " + s for s in SENTENCES] * 3, trainer)
    backend.add_special_tokens(["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"])
    return backend


@pytest.fixture(scope="session")
def sentences():
    return SENTENCES


@pytest.fixture(scope="session")
def whole_tokenizer():
    return byte_level_tokenizer()


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory):
    """A transformers Whisper with random weights."""
    from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

    folder = tmp_path_factory.mktemp("whisper")
    backend = byte_level_tokenizer()
    end, start = (backend.token_to_id(t) for t in ("<|endoftext|>", "<|startoftranscript|>"))
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=backend.get_vocab_size(), d_model=32, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64,
        encoder_attention_heads=2, decoder_attention_heads=2, decoder_ffn_dim=64, max_source_positions=200,
        max_target_positions=40, bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=start,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    for parameter in model.parameters():  # biases and norms too, so that a mixed-up name shows
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def written_units():
    """Written CTC units, as `recipes.prepare tokenizer --written` learns them."""
    from asr.text.tokenizer import Tokenizer

    return Tokenizer.train(SENTENCES * 3, 110, written=True)


@pytest.fixture(scope="session")
def hybrid_folder(tmp_path_factory, whisper_folder, written_units):
    """A hybrid recogniser that starts from the tiny Whisper."""
    from asr.hybrid.branch import BranchSizes
    from asr.hybrid.start import from_whisper

    torch.manual_seed(0)
    model = from_whisper(whisper_folder, written_units, SENTENCES, BranchSizes(units=len(written_units)), at_least=1)
    folder = tmp_path_factory.mktemp("hybrid")
    model.save_pretrained(folder)
    return folder
