"""Tiny pretrained parts with random weights, saved as any model of transformers: what the large path is tested on."""

from __future__ import annotations

from pathlib import Path

import torch

SPECIAL = {"bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": "<|pad|>", "mask_token": "<|mask|>"}
EMPTY = "<|empty|>"  # a token of no use, for empty slots
CHAT = "{% for m in messages %}<|start|>user {{ m['content'] }}{% endfor %}<|start|>assistant "
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SECONDS = 4  # that the toy Whisper hears at once


def write_tokenizer(folder: Path, sentences: list[str], chat: bool, useless: str = EMPTY) -> int:
    """Byte-level BPE with a mask and, if wanted, a chat template; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[*SPECIAL.values(), useless],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)
    tokenizer.chat_template = CHAT if chat else None
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def whisper(folder: Path) -> str:
    """A Whisper of one layer and its feature extractor."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=32, max_source_positions=50 * SECONDS, max_target_positions=8,
        vocab_size=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor(80, chunk_length=SECONDS).save_pretrained(folder)
    return str(folder)


def writing_whisper(folder: Path, sentences: list[str]) -> str:
    """A Whisper of one layer that writes, with its tokenizer."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=write_tokenizer(folder, sentences, chat=False, useless="<|notimestamps|>"),
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=50 * SECONDS, max_target_positions=64,
        pad_token_id=2, bos_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def language_model(folder: Path, kind: str, sentences: list[str], chat: bool = False) -> str:
    """A language model of two layers ("modernbert", "eurobert", "bert", "llama" ...) and its tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    size = write_tokenizer(folder, sentences, chat)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    if kind == "modernbert":
        ids |= {"cls_token_id": 0, "sep_token_id": 1}
    config = AutoConfig.for_model(kind, vocab_size=size, max_position_embeddings=512, **SIZES, **ids)
    auto = AutoModelForMaskedLM if kind.endswith("bert") else AutoModelForCausalLM
    model = auto.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 5  # freshly drawn weights say nearly the same everywhere
    model.save_pretrained(folder)
    return str(folder)
