"""The large recogniser: pretrained speech encoder -> projector -> pretrained language model, and a CTC branch.

dLLM-ASR (arXiv 2601.17902) at its own scale. The CTC branch is a linear layer on the encoder's frames with a small
vocabulary of our own; its hypothesis, tokenised again, is the prior of the denoiser. The canvas, the commit rules
and the denoising loop are those of our own models (`asr.dllm.canvas`, `asr.dllm.commit`, `asr.dllm.loop`).
"""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.ar.greedy import Marks
from asr.hub import HubModel
from asr.parts import Listened
from asr.pretrained.config import LargeASRConfig
from asr.pretrained.language import MODELS, Continuation, Prefix
from asr.pretrained.parts import add_lora
from asr.pretrained.projector import make_projector
from asr.pretrained.speech import SpeechEncoder
from asr.pretrained.tokens import Prompt, TextTokens
from asr.text.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"


class LargeASR(nn.Module, HubModel):
    """Waves in, text out, by `denoise(canvas, speech)` or, with a causal language model, token by token.

    A saved folder holds what was trained, and the names of the pretrained parts, which are read from where they are.

    Args:
        settings: fields of `LargeASRConfig`, as plain values.
        tokenizer: JSON definition of the CTC branch's vocabulary.
        decode: defaults of decoding chosen on held-out data (fields of `asr.dllm.choices.DenoisingDecode`).
    """

    computes_all = True  # every pass computes the whole canvas, see asr.dllm.loop
    most_tokens = sys.maxsize  # the language model's own limit is far away

    def __init__(self, settings: dict, tokenizer: str, decode: dict | None = None):
        super().__init__()
        self.config = LargeASRConfig.of(settings)
        self.decode = decode or {}
        self.tokenizer = Tokenizer(tokenizer)
        language = self.config.language_model
        self.encoder = SpeechEncoder(self.config.encoder)
        self.language_model = MODELS[language.kind](language)
        if self.config.lora:
            add_lora(self.language_model.network, self.config.lora)
        self.projector = make_projector(self.encoder.width, self.language_model.width, self.config.projector)
        self.ctc = nn.Linear(self.encoder.width, len(self.tokenizer))

    @classmethod
    def create(cls, config: LargeASRConfig, tokenizer: Tokenizer) -> LargeASR:
        return cls(config.plain(), tokenizer.definition)

    @classmethod
    def from_pretrained(cls, name: str | Path, **kwargs) -> LargeASR:
        """Load from a folder or a Hub id; the pretrained parts are read from the names they were trained with."""
        return super().from_pretrained(name, **kwargs)

    # -- what it is told and what it writes ----------------------------------------------------------------

    @cached_property
    def text_tokenizer(self):
        """The language model's tokenizer."""
        from transformers import AutoTokenizer

        part = self.config.language_model
        if part.name is None:
            raise ValueError("a language model without a name has no tokenizer: save it in a folder and name that")
        options = {"trust_remote_code": part.trust_remote_code, "revision": part.revision}
        return AutoTokenizer.from_pretrained(part.name, **options)

    @cached_property
    def tokens(self) -> TextTokens:
        return TextTokens(self.text_tokenizer, self.config.language_model, self.language_model.vocabulary)

    @cached_property
    def prompt(self) -> Prompt:
        return Prompt.of(self.text_tokenizer, self.config.instruction)

    @property
    def is_causal(self) -> bool:
        return self.config.language_model.kind == "causal"

    # -- what it computes ----------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> LargeASR:
        """Parts that are not trained stay in evaluation mode; with LoRA, the language model's dropout is on."""
        super().train(mode)
        for module in (self.encoder, self.language_model):
            if not module.part.train and not (module is self.language_model and self.config.lora):
                module.eval()
        return self

    def listen(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Frames [batch, n, width] and their numbers [batch], of `encoder.features`."""
        return self.encoder(inputs)

    def ctc_log_probabilities(self, frames: Tensor) -> Tensor:
        """Frames [batch, n, width] -> float32 log-probabilities [batch, n, units] of the CTC branch."""
        return F.log_softmax(self.ctc(frames.to(self.ctc.weight.dtype)).float(), dim=-1)

    def prefix(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [batch, p, width] of prompt and speech, padded on the left, and which are valid [batch, p]."""
        speech, lengths = self.projector(frames.to(self.ctc.weight.dtype), lengths)
        device, dtype = speech.device, self.language_model.dtype
        before, after = (
            self.language_model.embed(torch.tensor(ids, dtype=torch.long, device=device)).to(dtype)
            for ids in (self.prompt.before, self.prompt.after)
        )
        rows = [torch.cat((before, s[:n].to(dtype), after)) for s, n in zip(speech, lengths.tolist(), strict=True)]
        width = max(map(len, rows))
        embeddings = torch.stack([F.pad(row, (0, 0, width - len(row), 0)) for row in rows])
        counts = torch.tensor([len(row) for row in rows], device=device)
        return embeddings, torch.arange(width, device=device) >= width - counts[:, None]

    def remember(self, frames: Tensor, lengths: Tensor, cached: bool = True) -> Prefix:
        """The speech as `denoise` takes it; `cached` computes its keys and values where the model has a cache."""
        prefix = self.language_model.remember(*self.prefix(frames, lengths), cached)
        prefix.frames = lengths
        return prefix

    def hear(self, heard: Listened, cached: bool = True) -> Prefix:
        """`remember` for the denoising decoder."""
        return self.remember(heard.hidden, heard.lengths, cached)

    def denoise(
        self,
        canvas: Tensor,
        speech: Prefix,
        times: Tensor | None = None,
        valid: Tensor | None = None,
        active: Tensor | None = None,
        cache: object | None = None,
    ) -> Tensor:
        """Logits [batch, n, vocabulary] of every position of a canvas [batch, n].

        Of a causal model: those of the token behind each position of several texts of one utterance.

        `times` are not used: the language model finds its place in the speech by itself. `active` and `cache` belong
        to models that compute a part of the canvas; this one never does (`computes_all`).
        """
        if self.is_causal:
            same = torch.zeros(len(canvas), dtype=torch.long, device=canvas.device)
            return self.extend(canvas, speech.rows(same), self.new_cache())
        valid = torch.ones_like(canvas, dtype=torch.bool) if valid is None else valid
        return self.language_model.denoise(canvas, valid, speech)

    # -- token by token, see asr.ar.greedy.Writes -----------------------------------------------------------

    @cached_property
    def marks(self) -> Marks:
        return Marks(self.tokens.end, self.tokens.end, tuple(sorted(self.tokens.never)))

    def extend(self, tokens: Tensor, speech: Prefix, cache: Continuation) -> Tensor:
        """Logits [batch, n, vocabulary] after n more tokens [batch, n] of a causal model; the cache grows by them."""
        return self.language_model.extend(tokens, speech, cache)

    def new_cache(self) -> Continuation:
        return Continuation()

    # -- what is saved -------------------------------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """Weights that cannot be read from the parts' names: everything but frozen named parts."""
        parts = {"encoder.": self.config.encoder, "language_model.": self.config.language_model}
        restorable = tuple(prefix for prefix, part in parts.items() if part.name and not part.train)
        own, seen = {}, set()
        for key, value in self.state_dict().items():
            if (key.startswith(restorable) and "lora_" not in key) or value.data_ptr() in seen:
                continue
            seen.add(value.data_ptr())  # tied weights are written once
            own[key] = value
        return own

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Take over trained weights.

        Raises:
            ValueError: they belong to another model.
        """
        unexpected = self.load_state_dict(state, strict=False).unexpected_keys
        missing = [key for key in self.trained_state() if key not in state]
        if unexpected or missing:
            raise ValueError(f"weights do not fit the parts: {[*unexpected, *missing][:3]} ... differ")

    def _save_pretrained(self, save_directory: Path) -> None:
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in self.trained_state().items()}, save_directory / WEIGHTS)

    @classmethod
    def _load_as_safetensor(cls, model: LargeASR, model_file: str, map_location: str, strict: bool) -> LargeASR:
        from safetensors.torch import load_file

        model.load_trained_state(load_file(model_file, device=map_location))
        return model.eval()
