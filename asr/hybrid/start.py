"""Start a hybrid recogniser from Whisper's weights: a transformers folder or Hub id (English tiny.en, base ...)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from asr.hybrid.branch import BranchSizes
from asr.hybrid.decoder import DecoderSizes
from asr.hybrid.encoder import EncoderSizes, SpeechEncoder
from asr.hybrid.model import HybridModel
from asr.hybrid.vocabulary import cut_vocabulary
from asr.text.tokenizer import Tokenizer

PARTS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}


def from_whisper(
    whisper: str | Path, units: Tokenizer, sentences: Iterable[str], branch: BranchSizes, at_least: int = 2
) -> HybridModel:
    """Whisper's encoder and decoder over a cut vocabulary, with a fresh CTC branch.

    Args:
        whisper: folder or Hub id of a transformers Whisper.
        units: vocabulary of the branch.
        sentences: written English that says which tokens the decoder keeps.
        branch: sizes of the branch.
        at_least: how often a token must occur in `sentences` to be kept.
    """
    from transformers import AutoTokenizer, WhisperForConditionalGeneration

    source = WhisperForConditionalGeneration.from_pretrained(whisper)
    whole = AutoTokenizer.from_pretrained(whisper)
    text, kept = cut_vocabulary(whole.backend_tokenizer.to_str(), sentences, at_least)
    config = source.config
    prompt = prompt_tokens(config.vocab_size, whole)
    heard = encoder_sizes(config)
    sizes = {"width": heard.width, "heads": heard.heads, "feed_forward": heard.feed_forward}
    model = HybridModel.create(
        heard,
        branch,
        DecoderSizes(
            len(text), layers=config.decoder_layers, longest=config.max_target_positions, prompt=len(prompt), **sizes
        ),
        units,
        text,
    )
    weights = source.state_dict()
    model.encoder.load_state_dict(_encoder(weights))
    decoder = _decoder(weights)
    embedding = weights["model.decoder.embed_tokens.weight"]
    end = embedding[config.eos_token_id]
    start = embedding[whole.convert_tokens_to_ids("<|notimestamps|>")]
    special = [end, embedding.mean(0), end, start]  # blank (unused), mask, end, null: the last starts the text
    decoder["embedding.weight"] = torch.cat((torch.stack(special), embedding[kept[len(special) :]]))
    if prompt:
        decoder["prompt"] = embedding[prompt]
    decoder["output.weight"] = decoder["embedding.weight"]
    model.decoder.load_state_dict(decoder)
    return model


def whisper_encoder(whisper: str | Path) -> SpeechEncoder:
    """Whisper's encoder alone, unchanged, of a folder or Hub id of transformers.

    Raises:
        OSError: there is no such model.
    """
    from transformers import WhisperForConditionalGeneration

    source = WhisperForConditionalGeneration.from_pretrained(whisper)
    encoder = SpeechEncoder(encoder_sizes(source.config))
    encoder.load_state_dict(_encoder(source.state_dict()))
    return encoder


def encoder_sizes(config) -> EncoderSizes:
    """Sizes of the encoder that a `transformers.WhisperConfig` describes."""
    return EncoderSizes(
        config.num_mel_bins, config.d_model, config.encoder_attention_heads, config.encoder_layers,
        config.encoder_ffn_dim, config.max_source_positions,
    )  # fmt: skip


def prompt_tokens(vocabulary: int, tokenizer) -> list[int]:
    """Ids of what Whisper reads before "<|notimestamps|>", with which the text starts (Radford et al. 2022, Fig. 1).

    All attention of the first layers that has nowhere else to go goes there: without these tokens Whisper loops, and
    training does not make up for it.
    """
    multilingual = vocabulary >= 51865
    names = ["<|startoftranscript|>", *(["<|en|>", "<|transcribe|>"] if multilingual else [])]
    known = tokenizer.get_vocab()
    return [known[name] for name in names if name in known]


def _encoder(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"conv1": "first", "conv2": "second", "layer_norm": "norm", "embed_positions.weight": "positions"}
    layer = {"self_attn_layer_norm": "attention_norm", "final_layer_norm": "out_norm", "self_attn": "attention"}
    return _renamed(weights, "model.encoder.", names, layer)


def _decoder(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"layer_norm": "norm", "embed_positions.weight": "positions", "embed_tokens.weight": "embedding.weight"}
    layer = {
        "self_attn_layer_norm": "text_norm",
        "encoder_attn_layer_norm": "speech_norm",
        "final_layer_norm": "out_norm",
        "self_attn": "text",
        "encoder_attn": "speech",
    }
    return _renamed(weights, "model.decoder.", names, layer)


def _renamed(weights: dict[str, Tensor], prefix: str, names: dict, layer: dict) -> dict[str, Tensor]:
    """The weights of one side of Whisper under our names."""
    result = {}
    for name, value in weights.items():
        if not name.startswith(prefix):
            continue
        parts = name.removeprefix(prefix).split(".")
        if parts[0] == "layers":
            module = {"fc1": ["feed_forward", "0"], "fc2": ["feed_forward", "2"]}.get(parts[2])
            module = module or [layer[parts[2]], *(PARTS.get(p, p) for p in parts[3:-1])]
            ours = ".".join([*parts[:2], *module, parts[-1]])
        else:
            whole = ".".join(parts)
            ours = names.get(whole) or ".".join([names[parts[0]], *parts[1:]])
        result[ours] = value
    return result
