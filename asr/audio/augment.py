"""Augmentation used by every recipe: speed, room, noise, band limit, codec, clipping, vocal tract, SpecAugment.

Waveform augmentations are small objects called as `augment(wave, rng) -> wave` on float32 [samples] at
16 kHz. They draw from the generator handed in and keep no state, so one seed repeats a whole data set.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import librosa
import numpy as np
import scipy.signal
import soundfile
import torch
from torch import Tensor, nn

from asr.audio.features import SAMPLING_RATE

WaveAugment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass
class Sometimes:
    """Apply `augment` with the given probability."""

    augment: WaveAugment
    probability: float

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.augment(wave, rng) if rng.random() < self.probability else wave


@dataclass
class Chain:
    """Apply augmentations in order, then bring the peak back under full scale."""

    augments: Sequence[WaveAugment]

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for augment in self.augments:
            wave = augment(wave, rng)
        peak = np.abs(wave).max(initial=0.0)
        return (wave / peak * 0.99 if peak > 0.99 else wave).astype(np.float32)


@dataclass
class Speed:
    """Play faster or slower: tempo, pitch and formants change together (Ko et al. 2015)."""

    factors: Sequence[float] = (0.9, 1.0, 1.1)

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        factor = float(rng.choice(self.factors))
        if factor == 1.0:
            return wave
        return librosa.resample(wave, orig_sr=SAMPLING_RATE * factor, target_sr=SAMPLING_RATE, res_type="soxr_mq")


@dataclass
class Pitch:
    """Shift pitch and formants by up to `semitones`, duration kept (phase vocoder; slow)."""

    semitones: float = 3.0

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        steps = rng.uniform(-self.semitones, self.semitones)
        return librosa.effects.pitch_shift(wave, sr=SAMPLING_RATE, n_steps=steps)


def active_power(wave: np.ndarray, frame: int = 512) -> float:
    """Mean power over the frames within 30 dB of the loudest, so that pauses do not lower a level."""
    frames = wave[: len(wave) // frame * frame].reshape(-1, frame) if len(wave) >= frame else wave[None]
    power = np.square(frames).mean(1)
    return float(power[power >= power.max() * 1e-3].mean()) if power.max(initial=0.0) > 0 else 0.0


def mix_at_snr(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Speech plus noise at a signal-to-noise ratio in dB over active frames; same length as the speech."""
    speech_power, noise_power = active_power(speech), active_power(noise)
    if speech_power == 0 or noise_power == 0:
        return speech
    gain = np.sqrt(speech_power / noise_power / 10 ** (snr_db / 10))
    return speech + np.float32(gain) * noise


def cut(recording: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """A random stretch of `length` samples, the recording repeated when it is shorter."""
    if len(recording) < length:
        recording = np.tile(recording, -(-length // max(len(recording), 1)))
    start = rng.integers(0, len(recording) - length + 1)
    return recording[start : start + length]


@dataclass
class Noise:
    """Add a recorded noise (or white noise when none are given) at a drawn signal-to-noise ratio."""

    recordings: Sequence[np.ndarray] = field(default_factory=list)
    snr_db: tuple[float, float] = (5.0, 30.0)

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if len(self.recordings) and rng.random() < 0.9:
            noise = cut(self.recordings[rng.integers(len(self.recordings))], len(wave), rng)
        else:
            noise = rng.standard_normal(len(wave), dtype=np.float32)
        return mix_at_snr(wave, noise, rng.uniform(*self.snr_db))


def random_room_response(
    rng: np.random.Generator,
    rt60: tuple[float, float] = (0.1, 0.6),
    direct_to_reverb_db: tuple[float, float] = (-2, 15),
) -> np.ndarray:
    """A simulated room response [samples] whose first sample is the direct path with gain 1.

    A sparse early part (image sources thinned by distance) runs into exponentially decaying noise, which is
    the statistical room model of Polack (1988). `rt60` is the decay time in seconds; the energy ratio
    of direct path to everything after it is drawn in dB.
    """
    decay = rng.uniform(*rt60)
    length = int(SAMPLING_RATE * min(decay, 1.0))
    time = np.arange(length) / SAMPLING_RATE
    tail = rng.standard_normal(length) * 10 ** (-3 * time / decay)
    echo_density = np.minimum(1.0, (time / 0.05) ** 2 + 0.01)
    tail *= rng.random(length) < echo_density
    tail[: int(0.001 * SAMPLING_RATE)] = 0
    energy = np.square(tail).sum()
    if energy > 0:
        tail *= np.sqrt(10 ** (-rng.uniform(*direct_to_reverb_db) / 10) / energy)
    tail[0] = 1.0
    return tail.astype(np.float32)


@dataclass
class Room:
    """Convolve with a simulated room response; the direct path stays where it was."""

    rt60: tuple[float, float] = (0.1, 0.6)
    direct_to_reverb_db: tuple[float, float] = (-2.0, 15.0)

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        response = random_room_response(rng, self.rt60, self.direct_to_reverb_db)
        return scipy.signal.oaconvolve(wave, response)[: len(wave)].astype(np.float32)


@dataclass
class BandLimit:
    """Remove what a poor microphone or a telephone removes: low-pass, sometimes high-pass (Hz)."""

    low_pass: tuple[float, float] = (3000.0, 7500.0)
    high_pass: tuple[float, float] = (50.0, 300.0)

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        edges = [rng.uniform(*self.high_pass), rng.uniform(*self.low_pass)]
        kind, frequency = ("band", edges) if rng.random() < 0.5 else ("low", edges[1])
        sections = scipy.signal.butter(4, frequency, kind, fs=SAMPLING_RATE, output="sos")
        return scipy.signal.sosfilt(sections, wave).astype(np.float32)


@dataclass
class Codec:
    """Encode and decode with a lossy codec at a drawn quality (0 best, 1 smallest)."""

    formats: Sequence[tuple[str, str]] = (("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("OGG", "VORBIS"))
    strength: tuple[float, float] = (0.5, 0.95)

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        container, subtype = self.formats[rng.integers(len(self.formats))]
        buffer = io.BytesIO()
        soundfile.write(
            buffer,
            wave,
            SAMPLING_RATE,
            format=container,
            subtype=subtype,
            compression_level=float(rng.uniform(*self.strength)),
        )
        buffer.seek(0)
        decoded = soundfile.read(buffer, dtype="float32")[0]
        return np.pad(decoded[: len(wave)], (0, max(0, len(wave) - len(decoded))))


@dataclass
class Clip:
    """Overdrive the recording so that the given share of its peak amplitude is cut off."""

    threshold: tuple[float, float] = (0.2, 0.8)

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        limit = np.abs(wave).max(initial=0.0) * rng.uniform(*self.threshold)
        return np.clip(wave, -limit, limit)


@dataclass
class Gain:
    """Change the level by a drawn number of dB."""

    decibels: tuple[float, float] = (-20.0, 6.0)

    def __call__(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return wave * np.float32(10 ** (rng.uniform(*self.decibels) / 20))


@dataclass
class SpecAugment:
    """Mask bands and stretches of normalised log-mel features with zeros, their mean (Park et al. 2019).

    `time_share` caps what all time masks together may cover, so that short utterances keep their words.
    """

    frequency_masks: int = 2
    frequency_width: int = 20
    time_masks: int = 8
    time_width: int = 25  # frames of 10 ms
    time_share: float = 0.25

    def __call__(self, features: Tensor, rng: np.random.Generator) -> Tensor:
        """features [time, mel] -> a masked copy."""
        features = features.clone()
        frames, bands = features.shape
        for _ in range(self.frequency_masks):
            width = int(rng.integers(0, min(self.frequency_width, bands) + 1))
            start = int(rng.integers(0, bands - width + 1))
            features[:, start : start + width] = 0
        left = int(frames * self.time_share)
        for _ in range(self.time_masks):
            width = int(rng.integers(0, min(self.time_width, left) + 1))
            start = int(rng.integers(0, frames - width + 1))
            features[start : start + width] = 0
            left -= width
        return features


@dataclass
class Warp:
    """Another tempo and another vocal tract for log-mel features, by interpolation over frames and over bands.

    What a waveform would need minutes for, and enough for a recogniser: vocal tract length perturbation (Jaitly and
    Hinton 2013) with the bands' own scale as the warped axis.
    """

    tempo: float = 0.15  # up to so much faster or slower
    tract: float = 0.1
    probability: float = 0.6

    def __call__(self, features: Tensor, rng: np.random.Generator) -> Tensor:
        """features [frames, mel] -> [frames / tempo, mel]; as they are where the draw says so."""
        if rng.random() >= self.probability:
            return features
        frames, bands = features.shape
        length = max(1, round(frames / (1 + rng.uniform(-self.tempo, self.tempo))))
        stretched = nn.functional.interpolate(features.T[None], size=length, mode="linear", align_corners=False)[0]
        place = (torch.arange(bands) * (1 + rng.uniform(-self.tract, self.tract))).clamp(max=bands - 1)
        low, high = place.floor().long(), place.ceil().long()
        return torch.lerp(stretched[low], stretched[high], (place - low)[:, None]).T


def recorded_speech_chain(noises: Sequence[np.ndarray] = (), strength: float = 1.0) -> Chain:
    """The house's default for recognition: what rooms, microphones and codecs do to a voice.

    Args:
        noises: noise recordings [samples] at 16 kHz.
        strength: 0 switches everything but speed off, 1 is the default probability of each step.
    """
    return Chain(
        [
            Speed((0.88, 0.94, 1.0, 1.06, 1.12)),
            Sometimes(Room(), 0.35 * strength),
            Sometimes(Noise(noises), 0.5 * strength),
            Sometimes(BandLimit(), 0.15 * strength),
            Sometimes(Clip(), 0.05 * strength),
            Sometimes(Codec(), 0.1 * strength),
        ]
    )


def seeded(*keys: int) -> np.random.Generator:
    """A generator that depends on all keys (seed, epoch, utterance ...) and on nothing else."""
    return np.random.default_rng(np.random.SeedSequence([int(k) & 0xFFFFFFFF for k in keys]))


def seed_torch(seed: int) -> None:
    """Seed torch on every device; numpy randomness goes through `seeded` and needs no global state."""
    torch.manual_seed(seed)
