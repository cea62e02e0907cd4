"""What L3-SE learns to undo: pairs of damaged and clean speech.

    damaged = loss(band limit(clip(room(speech) + noise)))    at a peak of 0.9
    clean   = the dry speech, in time with the direct path of the room, at one fixed level

Source: the recipe of arXiv 2605.08608 and its predecessors, as far as it is published.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.signal

from asr.audio.augment import Clip, cut, mix_at_snr, random_room_response
from asr.audio.features import SAMPLING_RATE
from enhance.mixing import Mixer, draw_recording, scaled

PEAK = 0.9
CLEAN_LEVEL_DB = -25.0  # over active frames; representations do not know a level, so the target has one
PACKET = SAMPLING_RATE // 50  # samples: 20 ms


@dataclass(frozen=True)
class CorruptionConfig:
    """What is drawn for each pair; probabilities are independent.

    Attributes:
        seconds: length of a pair.
        snr_db: range of the signal-to-noise ratio over active frames.
        clean_probability: share of pairs whose damaged side is the clean one.
        room, clipping, packet_loss, band_limit: probabilities.
        clip_threshold: range of the limit, as a share of the peak.
        lost_share: range of the share of packets that are lost.
        bandwidths_khz: sampling rates whose band the recording is cut to; 16 changes nothing.
        speed_probability: share of pairs whose speech is played at 0.9 or 1.1 of its speed.
    """

    seconds: float = 2.0
    snr_db: tuple[float, float] = (-5.0, 20.0)
    clean_probability: float = 0.1
    room: float = 0.5
    clipping: float = 0.3
    clip_threshold: tuple[float, float] = (0.3, 0.9)
    packet_loss: float = 0.1
    lost_share: tuple[float, float] = (0.02, 0.1)
    band_limit: float = 0.3
    bandwidths_khz: tuple[float, ...] = (4.0, 8.0, 16.0)
    speed_probability: float = 0.3

    @property
    def samples(self) -> int:
        return int(self.seconds * SAMPLING_RATE)


@dataclass
class Corrupter(Mixer):
    """Draws pairs from recordings of speech and noise; a pair depends on the generator handed in only."""

    config: CorruptionConfig = field(default_factory=CorruptionConfig)

    def pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Damaged and clean waveform, float32 [samples]."""
        speech = self._speech(rng)
        if rng.random() < self.config.clean_probability:
            return peak_normalised(speech), at_clean_level(speech)
        noise = cut(draw_recording(self.noise, rng)[1], len(speech), rng)
        return self.corrupt(speech, noise, rng)

    def corrupt(self, speech: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Damage a given stretch of speech with a given noise of the same length."""
        config = self.config
        wave = reverberate(speech, rng) if rng.random() < config.room else speech
        wave = mix_at_snr(wave, noise, rng.uniform(*config.snr_db))
        if rng.random() < config.clipping:
            wave = Clip(config.clip_threshold)(wave, rng)
        if rng.random() < config.band_limit:
            wave = limit_band(wave, float(rng.choice(config.bandwidths_khz)))
        if rng.random() < config.packet_loss:
            wave = lose_packets(wave, rng.uniform(*config.lost_share), rng)
        return peak_normalised(wave), at_clean_level(speech)


def reverberate(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech in a simulated room whose direct path has no delay, so that dry speech stays in time with it."""
    response = random_room_response(rng, rt60=(0.2, 1.0))
    return scipy.signal.oaconvolve(speech, response)[: len(speech)].astype(np.float32)


def limit_band(wave: np.ndarray, rate_khz: float) -> np.ndarray:
    """Keep what a recording at a lower sampling rate holds; delays nothing."""
    edge = rate_khz * 1000 / 2
    if edge >= SAMPLING_RATE / 2:
        return wave
    sections = scipy.signal.butter(8, 0.95 * edge, fs=SAMPLING_RATE, output="sos")
    return scipy.signal.sosfiltfilt(sections, wave).astype(np.float32)


def lose_packets(wave: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Silence a share of the 20 ms packets."""
    lost = rng.random(-(-len(wave) // PACKET)) < share
    return np.where(np.repeat(lost, PACKET)[: len(wave)], np.float32(0), wave)


def peak_normalised(wave: np.ndarray) -> np.ndarray:
    peak = np.abs(wave).max(initial=0.0)
    return (wave * (PEAK / peak)).astype(np.float32) if peak > 0 else wave.astype(np.float32)


def at_clean_level(wave: np.ndarray) -> np.ndarray:
    """The level at which the codec learns to speak, or as near to it as full scale allows."""
    return scaled(wave, wave, CLEAN_LEVEL_DB)[1]
