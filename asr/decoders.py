"""The text decoders whose weights are folders of their own: the denoiser of a Conformer and its autoregressive twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from asr.ar.decoders import BiasedTwin, FusedTwin, RescoredBeam, TwinDecoder
from asr.ctc.beam import BeamOptions
from asr.ctc.ngram import NGram
from asr.dllm.decoder import DenoisingDecoder
from asr.dllm.network import Denoiser
from asr.parts import TextDecoder
from asr.text.hotwords import Hotwords
from asr.text.tokenizer import Tokenizer

DECODERS = ("dllm", "ar", "speculative", "fused", "rescored")


def load_decoder(
    name: str,
    device: torch.device | str,
    model: str | Path | None,
    tokenizer: Tokenizer,
    choices: dict | None = None,
    beam: BeamOptions | None = None,
    lm: Callable[[], NGram | None] = lambda: None,
    hotwords: Hotwords | None = None,
) -> TextDecoder:
    """A decoder by name, with the weights of a folder or Hub id.

    Raises:
        ValueError: there is no decoder of that name, its weights are not named, or its vocabulary is not `tokenizer`.
    """
    if name not in DECODERS:
        raise ValueError(f"decoder {name!r} is unknown; choose one of {', '.join(DECODERS)}")
    if model is None:
        kind = "denoiser" if name == "dllm" else "autoregressive twin"
        raise ValueError(f"decoder {name!r} of this model needs a {kind}: name its folder by --decoder_model")
    network = Denoiser.from_pretrained(model).to(device).eval()
    if network.tokenizer_definition and network.tokenizer_definition != tokenizer.definition:
        raise ValueError(f"{model}: has another vocabulary than the recogniser; train it on this recogniser's encoder")
    if name == "dllm":
        filter_folder = Path(model) / "filter"
        found = filter_folder if filter_folder.is_dir() else None
        return DenoisingDecoder(network, tokenizer, choices, beam, lm, found)
    return twin_decoder(name, network, tokenizer, beam or BeamOptions(), lm, hotwords, **network.decode)


def twin_decoder(
    name: str,
    twin,
    units: Tokenizer,
    beam: BeamOptions,
    lm: Callable[[], NGram | None],
    hotwords: Hotwords | None = None,
    **judging,
) -> TextDecoder:
    """One of the ways to decode with a model that writes token by token ("ar", "speculative", "fused", "rescored").

    Args:
        hotwords: for "ar", in the twin's tokens; it then searches.
        judging: fields of `RescoredBeam` tuned for the model.

    Raises:
        ValueError: the model cannot be decoded that way.
    """
    if name == "ar" and hotwords:
        return BiasedTwin(twin, getattr(twin, "tokens", None) or units, hotwords)
    if name == "rescored":
        return RescoredBeam(twin, units, beam, lm, **judging)
    if name == "fused":
        return FusedTwin(twin, units, lm)
    return TwinDecoder(twin, units, name == "speculative")
