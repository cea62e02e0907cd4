"""The whole of L3-SE in one model: noisy waves in, newly written clean speech out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from enhance.l3se.codec import SAMPLING_RATE, TOKEN_HOP, WavCodec
from enhance.l3se.encoder import NIEncoder
from enhance.l3se.language_model import TokenLM
from enhance.l3se.part import Part

CONTEXT = 1 / 8  # of a chunk, on both sides
FADE = SAMPLING_RATE // 50  # samples: 20 ms
ACTIVE_DB, FLOOR_SHARE = 25.0, 0.1


class L3SE(Part):
    """NI-Encoder, token language model and codec decoder.

    Args:
        encoder, language_model, codec: arguments of `NIEncoder`, `TokenLM` and `WavCodec`.
        seconds: length of the waves it was trained on; longer ones are enhanced in chunks of that length, since
            positions that were never trained mean nothing to the language model.
        architecture: always "l3se"; how loaders recognise the folder.
    """

    stage = "l3se_lm"
    sampling_rate = SAMPLING_RATE

    def __init__(
        self, encoder: dict, language_model: dict, codec: dict, seconds: float = 4.0, architecture: str = "l3se"
    ):
        super().__init__()
        self.longest = round(seconds * SAMPLING_RATE)  # samples
        self.encoder = NIEncoder(**encoder)
        self.language_model = TokenLM(**language_model)
        self.codec = WavCodec(**codec)

    @classmethod
    def assemble(cls, encoder: NIEncoder, language_model: TokenLM, codec: WavCodec, seconds: float) -> Self:
        """A system of trained parts; their weights are copied."""
        system = cls(encoder.arguments, language_model.arguments, codec.arguments, seconds)
        system.encoder.load_state_dict(encoder.state_dict())
        system.language_model.load_state_dict(language_model.state_dict())
        system.codec.load_state_dict(codec.state_dict())
        return system.eval()

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, **options) -> Self:
        """Load from a folder or a hub id, in evaluation mode.

        Raises:
            FileNotFoundError: no model there; None and "l3se" mean weights that ship with the package, and there
                are none.
        """
        if name is None or str(name) == "l3se":
            raise FileNotFoundError(
                "no weights of l3se ship with the package; train it with `python -m recipes.train_l3se` and pass the "
                "folder outputs/l3se_lm/model"
            )
        return super().from_pretrained(name, **options)

    def enhance(self, waves: Tensor, **options) -> Tensor:
        """Waves [batch, samples] at 16 kHz of any length -> clean speech of that shape and about that level.

        Options are those of `enhance_chunk`.
        """
        return in_chunks(waves, lambda chunk: self.enhance_chunk(chunk, **options), self.longest)

    @torch.inference_mode()
    def enhance_chunk(
        self, waves: Tensor, language_model: bool = True, sharpness: float | None = None, **sampling
    ) -> Tensor:
        """Waves [batch, samples] no longer than those of the training -> clean speech of that shape.

        Args:
            language_model: without it the NI-Encoder's acoustic representation goes straight to the codec, the
                control that shows what the language model adds.
            sharpness: what is decoded is the mean of the codes under the model's distributions to this power, which
                is closer to the speech where the model is unsure; None: the tokens it wrote, as in the paper.
            sampling: `temperature`, `top_k` and `generator` of `TokenLM.write`; greedy when not given.

        Raises:
            ValueError: no language model wanted, and the encoder has no acoustic head.
        """
        tokens, logits = self.write(waves, **sampling) if language_model else (self.direct_tokens(waves), None)
        if logits is None or sharpness is None:
            speech = self.codec.decode(tokens, waves.shape[1])
        else:
            digits = self.codec.mean_digits((sharpness * logits).softmax(-1))
            speech = self.codec.synthesise(digits, waves.shape[1])
        return match_level(speech, waves)

    def write(self, waves: Tensor, **sampling) -> tuple[Tensor, Tensor]:
        """Tokens that the language model writes for waves [batch, samples], and their logits; see `TokenLM.write`."""
        condition = self.encoder.condition(waves)
        return self.language_model.write(condition, -(-waves.shape[1] // TOKEN_HOP), **sampling)

    def direct_tokens(self, waves: Tensor) -> Tensor:
        """Waves -> tokens of the NI-Encoder's acoustic representation."""
        representations, _ = self.encoder(waves)
        if "acoustic" not in representations:
            raise ValueError("this encoder has a semantic head only; the codec needs the acoustic one")
        return self.codec.encode(representations["acoustic"])


def in_chunks(waves: Tensor, function: Callable[[Tensor], Tensor], longest: int, fade: int = FADE) -> Tensor:
    """Apply a function that keeps the shape to overlapping chunks of waves [batch, samples].

    A chunk of at most `longest` samples brings an eighth of it as context on both sides, which is thrown away
    again, but for `fade` samples around every border, over which one chunk is cross-faded into the next.
    """
    total, half = waves.shape[1], fade // 2
    if total <= longest:
        return function(waves)
    context = int(CONTEXT * longest)
    output, ramp = torch.zeros_like(waves), torch.linspace(0, 1, 2 * half, device=waves.device)
    count = -(-total // (longest - 2 * context))  # chunks of equal length, so that the last one is not a splinter
    borders = [total * number // count for number in range(count + 1)]
    for start, end in zip(borders, borders[1:], strict=False):
        low, high = max(0, start - context), min(total, end + context)
        first, last = max(0, start - half), min(total, end + half)
        piece = function(waves[:, low:high])[:, first - low : last - low].clone()
        if start > 0:
            piece[:, : 2 * half] *= ramp
        if end < total:
            piece[:, -2 * half :] *= 1 - ramp
        output[:, first:last] += piece
    return output


def match_level(estimate: Tensor, noisy: Tensor) -> Tensor:
    """Bring newly written speech [batch, samples] to the level that the speech has in the noisy waves.

    Where the estimate is loud, the noisy power minus that of the quietest frames is taken for the power of the
    speech. The codec itself knows no level: what goes into it is normalised.
    """
    written, heard = _frame_powers(estimate), _frame_powers(noisy)
    loudest = written.max(1, keepdim=True).values
    active = (written >= loudest * 10 ** (-ACTIVE_DB / 10)) & (written > 0)
    count = active.sum(1).clamp(min=1)
    speech = (heard * active).sum(1) / count
    speech = torch.maximum(speech - heard.quantile(0.1, dim=1), FLOOR_SHARE * speech)
    gain = (speech / ((written * active).sum(1) / count).clamp(min=1e-12)).sqrt()[:, None]
    peak = estimate.abs().amax(1, keepdim=True) * gain
    return estimate * gain / peak.clamp(min=1.0)


def _frame_powers(waves: Tensor) -> Tensor:
    """Mean power of each 20 ms [batch, frames]."""
    waves = F.pad(waves.float(), (0, -waves.shape[1] % TOKEN_HOP))
    return waves.unflatten(1, (-1, TOKEN_HOP)).square().mean(2)
