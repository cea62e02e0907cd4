"""The speech encoder below everything: waves in, the hidden states of all layers out.

Three implementations behind one interface: WavLM from transformers; Whisper's encoder, unchanged or as our recogniser
has trained it further; and the encoder of a Conformer of ours. Teachers use a backbone frozen; the NI-Encoder starts
from it and trains it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.audio.features import FRAME_HOP, log_mel, normalise, whisper_log_mel
from asr.ctc.encoder import SUBSAMPLING, ChannelDropout, Encoder, EncoderConfig
from asr.hub import model_file
from asr.hybrid.encoder import EncoderSizes, SpeechEncoder
from enhance.l3se.part import Part

FOLDER = "backbone"  # that of a trained teacher holds the backbone it stands on there


class Backbone(Part):
    """What the codec, the teachers and the NI-Encoder know of a speech encoder.

    Attributes:
        kind: name of the class in a configuration.
        hop: samples a frame at 16 kHz; a wave of n samples has ceil(n / hop) frames.
        width: features of the layers.
        widths: features of each hidden state; the first may be wider or narrower than the rest.
    """

    stage = "l3se_codec"
    kind: str
    hop: int
    width: int
    widths: tuple[int, ...]

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Hidden states of a batch.

        Args:
            waves: [batch, samples] at 16 kHz, full scale 1; zeros after the end.
            lengths: [batch] valid samples of each; all when None.

        Returns:
            the states of all layers [batch, frames, widths[layer]], from the bottom up, and frames [batch].
        """
        raise NotImplementedError

    @property
    def spec(self) -> dict:
        """From which `make_backbone` makes one of the same sizes."""
        raise NotImplementedError

    def frames(self, samples: int | Tensor) -> int | Tensor:
        return -(-samples // self.hop)

    def frozen(self) -> Backbone:
        """Itself in evaluation mode, without gradients."""
        return self.eval().requires_grad_(False)


class CompactBackbone(Backbone):
    """The encoder of our recogniser (asr/ctc/encoder.py), a frame every 40 ms.

    Its deep layers lose how something sounds, so the first hidden state is the log-mel spectrogram itself: the
    four 10 ms frames of a 40 ms frame side by side. Features are normalised over the utterance, so the states
    do not depend on its level.
    """

    kind = "compact"
    hop = FRAME_HOP * SUBSAMPLING

    def __init__(self, encoder: dict):
        super().__init__()
        config = EncoderConfig(**{**encoder, "layers": tuple(encoder["layers"])})
        self.encoder = Encoder(config)
        self.width = config.width
        before, _, after = config.layers
        self.widths = (SUBSAMPLING * config.num_mels, *[config.width] * (before + after + 2))
        for module in self.encoder.modules():  # representations are targets: no noise in them
            if isinstance(module, ChannelDropout):
                module.probability = 0.0

    @classmethod
    def from_recogniser(cls, name: str | Path) -> CompactBackbone:
        """With the weights of a `CTCModel` (folder or Hub id)."""
        from asr.ctc.model import CTCModel

        encoder = CTCModel.from_pretrained(name).encoder
        backbone = cls(dataclasses.asdict(encoder.config))
        backbone.encoder.load_state_dict(encoder.state_dict())
        return backbone

    @property
    def spec(self) -> dict:
        return {"kind": self.kind, "encoder": dataclasses.asdict(self.encoder.config)}

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        if lengths is None:
            lengths = torch.full((len(waves),), waves.shape[1], device=waves.device)
        frames = self.frames(lengths)
        features = self._features(waves, frames.tolist())
        states, _ = self.encoder.hidden_states(features, SUBSAMPLING * frames)
        count = features.shape[1] // SUBSAMPLING
        return [features.reshape(len(waves), count, -1), *(state[:, :count] for state in states)], frames

    @torch.no_grad()
    def _features(self, waves: Tensor, frames: list[int]) -> Tensor:
        """Normalised log-mel [batch, 4 * frames, mel]; zeros after the end of a wave."""
        longest = max(frames)
        waves = F.pad(waves.float(), (0, max(0, longest * self.hop - waves.shape[1])))
        with torch.autocast(waves.device.type, enabled=False):
            features = log_mel(waves[:, : longest * self.hop], self.encoder.config.num_mels)[:, :-1]
            rows = [
                F.pad(normalise(row[: SUBSAMPLING * count]), (0, 0, 0, SUBSAMPLING * (longest - count)))
                for row, count in zip(features, frames, strict=True)
            ]
        return torch.stack(rows)


class WhisperBackbone(Backbone):
    """Whisper's encoder at the utterance's own length (asr/hybrid/encoder.py), a frame every 20 ms.

    The states are the log-mel spectrogram, its two 10 ms frames side by side, since the layers lose how something
    sounds; what the convolutions make of it; and what leaves each layer.
    """

    kind = "whisper"
    hop = 2 * FRAME_HOP

    def __init__(self, whisper: dict):
        super().__init__()
        self.encoder = SpeechEncoder(EncoderSizes(**{**whisper, "dropout": 0.0}))
        sizes = self.encoder.sizes
        self.width = sizes.width
        self.widths = (2 * sizes.mels, *[sizes.width] * (sizes.layers + 1))

    @classmethod
    def from_recogniser(cls, name: str | Path) -> WhisperBackbone:
        """With the weights of a hybrid recogniser, a folder or Hub id."""
        from asr.hybrid.model import HybridModel

        return cls.holding(HybridModel.from_pretrained(name).encoder)

    @classmethod
    def from_transformers(cls, name: str | Path) -> WhisperBackbone:
        """With the weights of a Whisper of transformers, a folder or Hub id."""
        from asr.hybrid.start import whisper_encoder

        return cls.holding(whisper_encoder(name))

    @classmethod
    def holding(cls, encoder: SpeechEncoder) -> WhisperBackbone:
        backbone = cls(dataclasses.asdict(encoder.sizes))
        backbone.encoder.load_state_dict(encoder.state_dict())
        return backbone

    @property
    def spec(self) -> dict:
        return {"kind": self.kind, "whisper": dataclasses.asdict(self.encoder.sizes)}

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        if lengths is None:
            lengths = torch.full((len(waves),), waves.shape[1], device=waves.device)
        frames = self.frames(lengths)
        features = self._features(waves, frames.tolist())
        states, _ = self.encoder(features, 2 * frames)
        return [features.reshape(len(waves), features.shape[1] // 2, -1), *states], frames

    @torch.no_grad()
    def _features(self, waves: Tensor, frames: list[int]) -> Tensor:
        """Log-mel [batch, 2 * frames, mel], each of its own stretch; zeros after the end of a wave."""
        waves = F.pad(waves.float(), (0, max(0, max(frames) * self.hop - waves.shape[1])))
        with torch.autocast(waves.device.type, enabled=False):
            if len(set(frames)) == 1:  # as in training: one call, where a GPU would wait for many small ones
                return whisper_log_mel(waves[:, : frames[0] * self.hop], self.encoder.sizes.mels)
            rows = [
                whisper_log_mel(row[: count * self.hop], self.encoder.sizes.mels)
                for row, count in zip(waves, frames, strict=True)
            ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)


class WavLMBackbone(Backbone):
    """WavLM of any size (Chen et al. 2022) from transformers, a frame every 20 ms."""

    kind = "wavlm"
    hop = 320
    # Randomness would end up in the targets; these are not 0 in the published configurations.
    STILL = {
        "layerdrop": 0.0,
        "apply_spec_augment": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
    }

    def __init__(self, config: dict):
        super().__init__()
        from transformers import WavLMConfig, WavLMModel

        self.model = WavLMModel(WavLMConfig(**{**config, **self.STILL}))
        self.width = self.model.config.hidden_size
        self.widths = (self.width,) * (self.model.config.num_hidden_layers + 1)

    @classmethod
    def from_transformers(cls, name: str | Path) -> WavLMBackbone:
        """A published or local checkpoint, "microsoft/wavlm-large" or a folder."""
        from transformers import WavLMModel

        model = WavLMModel.from_pretrained(str(name))
        backbone = cls(model.config.to_diff_dict())
        backbone.model.load_state_dict(model.state_dict())
        return backbone

    @property
    def spec(self) -> dict:
        return {"kind": self.kind, "config": self.model.config.to_diff_dict()}

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        if lengths is None:
            lengths = torch.full((len(waves),), waves.shape[1], device=waves.device)
        frames = self.frames(lengths)
        if self.model.config.feat_extract_norm == "layer":  # the sizes whose training normalised the waves
            waves = _standardised(waves, lengths)
        # A frame sees 400 samples: 40 more on both sides give one frame for every begun 320.
        count = int(frames.max())
        waves = F.pad(waves, (40, 40 + max(0, count * self.hop - waves.shape[1])))[:, : count * self.hop + 80]
        mask = None
        if (frames < count).any():
            valid = frames * self.hop + 80
            mask = (torch.arange(waves.shape[1], device=waves.device) < valid[:, None]).long()
        out = self.model(waves, attention_mask=mask, output_hidden_states=True)
        # In the large sizes the last of `hidden_states` lacks the final normalisation.
        return [*out.hidden_states[:-1], out.last_hidden_state], frames


def _standardised(waves: Tensor, lengths: Tensor) -> Tensor:
    """Zero mean and unit variance over the valid samples of each wave, as Wav2Vec2FeatureExtractor does it."""
    valid = torch.arange(waves.shape[1], device=waves.device) < lengths[:, None]
    mean = (waves * valid).sum(1, keepdim=True) / lengths[:, None]
    centred = (waves - mean) * valid
    return centred / (centred.square().sum(1, keepdim=True) / lengths[:, None] + 1e-7).sqrt()


KINDS = {backbone.kind: backbone for backbone in (CompactBackbone, WhisperBackbone, WavLMBackbone)}
ARGUMENTS = {"encoder": CompactBackbone, "whisper": WhisperBackbone}  # that tell a saved one; else it is a WavLM


def make_backbone(spec: dict) -> Backbone:
    """A backbone with fresh weights from its `spec`.

    Raises:
        ValueError: an unknown kind.
    """
    if spec.get("kind") not in KINDS:
        raise ValueError(f"backbone is of kind {spec.get('kind')!r}; known are {', '.join(KINDS)}")
    return KINDS[spec["kind"]](**{name: value for name, value in spec.items() if name != "kind"})


def pretrained_backbone(name: str | Path) -> Backbone:
    """The speech encoder of a model, with its weights.

    Args:
        name: a recogniser of ours ("tiny", which ships, a folder or Hub id), or a Whisper or WavLM of transformers.

    Raises:
        OSError: there is no such model.
        ValueError: it is of another kind.
    """
    from asr.loading import shipped

    place = shipped(name)
    config = model_file(place, "config.json")
    found = json.loads(config.read_text(encoding="utf-8")) if config else {}
    if found.get("model_type") in ("whisper", "wavlm"):
        return KINDS[found["model_type"]].from_transformers(place)
    if "encoder" in found:
        return (WhisperBackbone if "branch" in found else CompactBackbone).from_recogniser(place)
    raise ValueError(f"{name} has no speech encoder: name a recogniser of ours, or a Whisper or WavLM of transformers")


def load_backbone(folder: str | Path) -> Backbone:
    """A backbone that was written by `save_pretrained`.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    config = Path(folder) / "config.json"
    if not config.exists():
        raise FileNotFoundError(f"{folder} holds no backbone; the folder of a trained codec or semantic teacher does")
    arguments = json.loads(config.read_text(encoding="utf-8"))
    kind = next((kind for name, kind in ARGUMENTS.items() if name in arguments), WavLMBackbone)
    return kind.from_pretrained(folder)


class WeightedSum(nn.Module):
    """Learnable softmax-weighted sum of the normalised hidden states: z = sum_l softmax(a)_l LN(h_l).

    A state of another width than the rest is projected first. [batch, frames, width] comes out.
    """

    def __init__(self, widths: list[int] | tuple[int, ...], width: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(len(widths)))
        self.projections = nn.ModuleDict({str(i): nn.Linear(w, width) for i, w in enumerate(widths) if w != width})
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in widths)

    def forward(self, states: list[Tensor]) -> Tensor:
        total = 0.0
        for number, (weight, norm, state) in enumerate(zip(self.weights(), self.norms, states, strict=True)):
            if str(number) in self.projections:
                state = self.projections[str(number)](state)
            total = total + weight * norm(state.float())
        return total

    def weights(self) -> Tensor:
        """[layers], their sum is 1."""
        return self.logits.float().softmax(0)
