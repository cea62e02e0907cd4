"""Parts of a large recogniser from folders, from the Hub or from a configuration alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from asr.pretrained.config import LanguagePart, LoRA, Part

# LLaDA (arXiv 2502.09992) is Llama without the causal mask, under names of its own.
_BLOCK = r"^model\.transformer\.blocks\.(\d+)\."
LLADA_NAMES = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    _BLOCK + r"attn_norm\.": r"model.layers.\1.input_layernorm.",
    _BLOCK + r"ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
    _BLOCK + r"q_proj\.": r"model.layers.\1.self_attn.q_proj.",
    _BLOCK + r"k_proj\.": r"model.layers.\1.self_attn.k_proj.",
    _BLOCK + r"v_proj\.": r"model.layers.\1.self_attn.v_proj.",
    _BLOCK + r"attn_out\.": r"model.layers.\1.self_attn.o_proj.",
    _BLOCK + r"ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
    _BLOCK + r"up_proj\.": r"model.layers.\1.mlp.up_proj.",
    _BLOCK + r"ff_out\.": r"model.layers.\1.mlp.down_proj.",
}


def llada_config(values: dict) -> PreTrainedConfig:
    """The Llama configuration of a LLaDA `config.json`."""
    return transformers.LlamaConfig(
        vocab_size=values.get("embedding_size") or values["vocab_size"],
        hidden_size=values["d_model"],
        intermediate_size=values["mlp_hidden_size"],
        num_hidden_layers=values["n_layers"],
        num_attention_heads=values["n_heads"],
        num_key_value_heads=values.get("n_kv_heads") or values["n_heads"],
        max_position_embeddings=values.get("max_sequence_length", 4096),
        rms_norm_eps=values.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": values.get("rope_theta", 10000.0)},
        tie_word_embeddings=values.get("weight_tying", False),
    )


def dream_config(values: dict) -> PreTrainedConfig:
    """The Qwen2 configuration of a Dream `config.json`; names of weights are the same."""
    own = ("architectures", "auto_map", "model_type", "transformers_version")
    return transformers.Qwen2Config(**{key: value for key, value in values.items() if key not in own})


# Diffusion language models whose weights fit classes of transformers: configuration, class, names of weights.
TRANSLATED = {
    "llada": (llada_config, transformers.LlamaForCausalLM, LLADA_NAMES),
    "Dream": (dream_config, transformers.Qwen2ForCausalLM, None),
}


def load_encoder(part: Part) -> PreTrainedModel:
    """The encoder of a speech model, without its decoder and its heads."""
    if part.name is None:
        config = AutoConfig.for_model(**part.config)
        if config.model_type == "whisper":
            from transformers.models.whisper.modeling_whisper import WhisperEncoder

            return WhisperEncoder(config)
        return encoder_of(AutoModel.from_config(config))
    return encoder_of(AutoModel.from_pretrained(part.name, **how_to_load(part)))


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The encoder of a model that may have a decoder or a head; WavLM and wav2vec2 models are encoders as they are."""
    kind = model.config.model_type
    has_more = model.config.is_encoder_decoder or (kind.startswith("parakeet_") and kind != "parakeet_encoder")
    return model.get_encoder() if has_more else model


def load_language_model(part: LanguagePart) -> PreTrainedModel:
    """The language model with its head.

    Raises:
        ValueError: transformers has no such model.
        ImportError: 8- or 4-bit weights without bitsandbytes.
    """
    values = part.config or {}
    if part.name is not None:
        values, _ = PreTrainedConfig.get_config_dict(part.name, revision=part.revision)
    model_type = values.get("model_type")
    attention = {"attn_implementation": "sdpa"} if part.kind == "decoder" else {}
    if part.kind in ("decoder", "causal") and model_type in TRANSLATED:
        to_config, network, names = TRANSLATED[model_type]
        config = to_config(values)
        config._attn_implementation = "sdpa"
        if part.name is None:
            return network(config)
        return network.from_pretrained(part.name, config=config, key_mapping=names, **how_to_load(part), **attention)
    if part.name is None:
        config = AutoConfig.for_model(**values)
        return class_of(config, part.kind).from_config(config, **attention)
    config = AutoConfig.from_pretrained(part.name, trust_remote_code=part.trust_remote_code, revision=part.revision)
    return class_of(config, part.kind).from_pretrained(part.name, **how_to_load(part), **attention)


def class_of(config: PreTrainedConfig, kind: str):
    """The Auto class that gives the model with its head.

    Raises:
        ValueError: none does.
    """
    if kind == "block":
        return transformers.AutoModelForMultimodalLM
    autos = (AutoModelForCausalLM,) if kind == "causal" else (AutoModelForMaskedLM, AutoModelForCausalLM)
    remote = getattr(config, "auto_map", None) or {}
    for auto in (*autos, AutoModel) if remote else autos:
        if auto.__name__ in remote or type(config) in auto._model_mapping:
            return auto
    raise ValueError(f"{config.model_type}: transformers has no language model of kind {kind!r} for it")


def how_to_load(part: Part) -> dict:
    """Arguments of `from_pretrained`."""
    options = {"trust_remote_code": part.trust_remote_code, "revision": part.revision}
    if part.precision in ("float32", "bfloat16"):
        return {**options, "dtype": getattr(torch, part.precision)}
    if find_spec("bitsandbytes") is None:
        raise ImportError(f"precision {part.precision} needs bitsandbytes: pip install 'denoising-speech[large]'")
    if part.precision == "8bit":
        return {**options, "quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)}
    four_bit = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    return {**options, "quantization_config": four_bit}


def add_lora(model: PreTrainedModel, lora: LoRA) -> None:
    """Put trainable low-rank matrices beside the linear layers, in place; everything else is frozen.

    Raises:
        ValueError: the model has none of the target layers.
    """
    from peft import inject_adapter_in_model

    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = sorted(set(lora.targets) & names)
    if not targets:
        raise ValueError(f"lora.targets {list(lora.targets)}: the model's linear layers are {sorted(names)}")
    inject_adapter_in_model(lora_config(lora, targets), model)


def lora_config(lora: LoRA, targets: list[str]):
    """The adaptation as peft spells it; "eva" is "default" until `start_from_activations`."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.start == "rslora",
        use_dora=lora.start == "dora",
        init_lora_weights="pissa" if lora.start == "pissa" else True,
    )


def start_from_activations(
    model: PreTrainedModel, passes: Iterable[Callable[[], object]], positions: int = 512
) -> None:
    """EVA (arXiv 2410.07170): the matrices A start from the principal directions of what the layers receive.

    Args:
        model: with the adapters of `add_lora` in place.
        passes: each runs the model on some data when called.
        positions: inputs of each layer to keep, for the singular value decomposition.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    received: list[list[Tensor]] = [[] for _ in layers]

    def keep(rows: list[Tensor]):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            left = positions - sum(map(len, rows))
            rows.append(inputs[0].flatten(0, -2)[:left].float())

        return hook

    hooks = [layer.register_forward_pre_hook(keep(rows)) for layer, rows in zip(layers, received, strict=True)]
    with torch.no_grad():
        for run in passes:
            run()
        for layer, rows, hook in zip(layers, received, hooks, strict=True):
            hook.remove()
            matrix = layer.lora_A["default"].weight
            directions = torch.linalg.svd(torch.cat(rows), full_matrices=False).Vh
            matrix[: len(directions)] = directions[: len(matrix)].to(matrix.dtype)
