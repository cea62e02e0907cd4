"""WavCodec: the acoustic teacher, its tokens, and the decoder that turns tokens into speech.

    hidden states -> z_a = sum_l softmax(a)_l LN(h_l) -> down -> FSQ -> up -> ConvNeXt -> inverse STFT -> wave

The decoder follows Vocos (Siuzdak 2024): no upsampling of waves, the spectrum is written frame by frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enhance.l3se.backbone import WeightedSum
from enhance.l3se.part import Part

SAMPLING_RATE = 16_000
TOKEN_HOP = 320  # samples: 20 ms, the frame of WavLM; a compact backbone's frame becomes two
LARGEST_MAGNITUDE = 100.0


class WavCodec(Part):
    """Codec on the hidden states of a frozen backbone (enhance/l3se/backbone.py).

    There are 50 token frames a second with `groups` tokens each, every one of prod(levels) codes: with
    levels [8, 8, 8, 8] 12 bits, so one group is 600 bit/s and four are 2400.

    Args:
        widths, hop: of the backbone's hidden states.
        width: of z_a, normally the backbone's.
        levels: of finite scalar quantisation (Mentzer et al. 2024), one digit each.
        groups: tokens a frame.
        channels, layers: of the ConvNeXt decoder.
        decoder_hop, fft_size: of the inverse STFT, in samples; the hop divides the token's 320.

    Raises:
        ValueError: the hops do not divide each other.
        ImportError: vector-quantize-pytorch is not installed.
    """

    stage = "l3se_codec"

    def __init__(
        self,
        widths: list[int],
        hop: int,
        width: int,
        levels: list[int] = (8, 8, 8, 8),
        groups: int = 4,
        channels: int = 256,
        layers: int = 6,
        decoder_hop: int = 160,
        fft_size: int = 640,
    ):
        super().__init__()
        if hop % TOKEN_HOP or TOKEN_HOP % decoder_hop:
            raise ValueError(
                f"hops are {hop} (backbone) and {decoder_hop} (decoder) samples; the first must be a multiple of "
                f"{TOKEN_HOP} and the second divide it"
            )
        self.hop, self.groups, self.digits = hop, groups, groups * len(levels)
        self.repeat = hop // TOKEN_HOP  # token frames in a frame of the backbone
        self.aggregate = WeightedSum(widths, width)
        self.down = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, self.repeat * self.digits)
        )
        self.quantiser = make_quantiser(list(levels), groups)
        self.up = nn.Linear(self.digits, width)
        self.restore = nn.Linear(self.repeat * width, width)  # for the feature reconstruction loss only
        self.decoder = Decoder(width, channels, layers, TOKEN_HOP // decoder_hop, decoder_hop, fft_size)

    @property
    def codes(self) -> int:
        """Different tokens in each group."""
        return self.quantiser.codebook_size

    @property
    def tokens_per_second(self) -> float:
        return SAMPLING_RATE / TOKEN_HOP * self.groups

    def represent(self, states: list[Tensor]) -> Tensor:
        """Hidden states of the backbone -> z_a [batch, frames, width]."""
        return self.aggregate(states)

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z_a [batch, frames, width] -> its digits and tokens.

        Returns:
            [batch, frames * repeat, digits] between -1 and 1, and [batch, frames * repeat, groups].

        The gradient passes the rounding as if it were not there.
        """
        digits = self.down(z).unflatten(-1, (self.repeat, self.digits)).flatten(1, 2)
        with torch.autocast(digits.device.type, enabled=False):
            return self.quantiser(digits.float())

    def encode(self, z: Tensor) -> Tensor:
        """z_a [batch, frames, width] -> tokens [batch, frames * repeat, groups]."""
        return self.quantise(z)[1]

    def decode(self, tokens: Tensor, samples: int) -> Tensor:
        """Tokens [batch, token frames, groups] -> waves [batch, samples] at 16 kHz."""
        return self.synthesise(self.quantiser.indices_to_codes(tokens), samples)

    def mean_digits(self, probabilities: Tensor) -> Tensor:
        """Digits [batch, token frames, digits] to expect of tokens [batch, token frames, groups, codes] drawn so."""
        every = torch.arange(self.codes, device=probabilities.device)[None, :, None].expand(1, -1, self.groups)
        digits = self.quantiser.indices_to_codes(every)[0].unflatten(-1, (self.groups, -1))
        return torch.einsum("bngc,cgd->bngd", probabilities, digits).flatten(2)

    def synthesise(self, digits: Tensor, samples: int) -> Tensor:
        """Quantised digits [batch, token frames, digits] -> waves [batch, samples]."""
        return self.decoder(self.up(digits), samples)

    def reconstruct(self, digits: Tensor) -> Tensor:
        """What the digits [batch, frames * repeat, digits] tell of z_a [batch, frames, width]."""
        return self.restore(self.up(digits).unflatten(1, (-1, self.repeat)).flatten(2))


def make_quantiser(levels: list[int], groups: int) -> nn.Module:
    try:
        from vector_quantize_pytorch import FSQ
    except ImportError as error:
        raise ImportError(
            "L3-SE needs vector-quantize-pytorch; install it with pip install vector-quantize-pytorch"
        ) from error
    return FSQ(levels, dim=groups * len(levels), num_codebooks=groups, keep_num_codebooks_dim=True)


class Decoder(nn.Module):
    """[batch, token frames, width] -> wave [batch, samples]; `upsample` spectra are written a token frame."""

    def __init__(self, width: int, channels: int, layers: int, upsample: int, hop: int, fft_size: int):
        super().__init__()
        self.upsample, self.hop, self.fft_size = upsample, hop, fft_size
        self.spread = nn.Linear(width, upsample * channels)
        self.embed = nn.Conv1d(channels, channels, 7, padding=3)
        self.norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels, 1 / layers) for _ in range(layers))
        self.last_norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, fft_size + 2)
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)

    def forward(self, x: Tensor, samples: int) -> Tensor:
        x = self.spread(x).unflatten(-1, (self.upsample, -1)).flatten(1, 2)
        x = self.norm(self.embed(x.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        magnitude, phase = self.head(self.last_norm(x)).float().chunk(2, -1)
        spectrum = torch.polar(magnitude.exp().clamp(max=LARGEST_MAGNITUDE), phase)
        return self._overlap_add(spectrum)[:, :samples]

    def _overlap_add(self, spectrum: Tensor) -> Tensor:
        """Spectrum [batch, frames, bins] -> [batch, frames * hop]; frame i is centred on its own hop."""
        frames = spectrum.shape[1]
        pieces = torch.fft.irfft(spectrum, n=self.fft_size) * self.window
        wave = self._fold(pieces)
        envelope = self._fold(self.window.square().expand(1, frames, -1))
        margin = (self.fft_size - self.hop) // 2
        inside = slice(margin, margin + frames * self.hop)
        return wave[:, inside] / envelope[:, inside].clamp(min=1e-3)

    def _fold(self, pieces: Tensor) -> Tensor:
        total = (pieces.shape[1] - 1) * self.hop + self.fft_size
        return F.fold(pieces.transpose(1, 2), (1, total), (1, self.fft_size), stride=(1, self.hop)).flatten(1)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a wide feed-forward layer (Liu et al. 2022), [batch, time, channels]."""

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, 3 * channels)
        self.narrow = nn.Linear(3 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x.transpose(1, 2)).transpose(1, 2))
        return x + self.scale * self.narrow(F.gelu(self.wide(y)))
