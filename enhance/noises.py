"""Noises that are made rather than recorded: babble, clicks, mains hum and wind.

A few hours of recorded noise repeat soon; these never do. Each maker takes a number of samples and a generator and
returns float32 [samples] at 16 kHz at an arbitrary level, since the mixer sets it; one seed gives the same noise.
Babble is made from the speech recordings that are at hand, as in the noise sets of Reddy et al. 2019 (MS-SNSD).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.signal

from asr.audio.augment import active_power, cut
from asr.audio.features import SAMPLING_RATE

KINDS = ("babble", "clicks", "hum", "wind")
BABBLE_TALKERS = (4, 9)

Draw = Callable[[np.random.Generator], np.ndarray]


def synthetic_noise(samples: int, rng: np.random.Generator, talker: Draw) -> np.ndarray:
    """A noise of a drawn kind, float32 [samples]; `talker` draws a speech recording for babble."""
    kind = KINDS[rng.integers(len(KINDS))]
    if kind == "babble":
        return babble(samples, rng, talker)
    return {"clicks": clicks, "hum": hum, "wind": wind}[kind](samples, rng)


def babble(samples: int, rng: np.random.Generator, talker: Draw) -> np.ndarray:
    """Several talkers at once, each at about the same level."""
    noise = np.zeros(samples, np.float32)
    for _ in range(rng.integers(*BABBLE_TALKERS, endpoint=True)):
        voice = cut(talker(rng), samples, rng)
        power = active_power(voice)
        if power > 0:
            noise += np.float32(10 ** (rng.uniform(-4, 4) / 20) / np.sqrt(power)) * voice
    return noise


def clicks(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Typing: bursts of short resonant strokes over a faint hiss."""
    noise = 1e-3 * rng.standard_normal(samples)
    position, pace = rng.uniform(0, 0.3), rng.uniform(0.07, 0.3)
    stroke = int(0.03 * SAMPLING_RATE)
    decay = np.exp(-np.arange(stroke) / SAMPLING_RATE / rng.uniform(0.002, 0.008))
    resonance = scipy.signal.butter(2, [rng.uniform(500, 1500), rng.uniform(2500, 7000)], "band", fs=SAMPLING_RATE)
    while (start := int(position * SAMPLING_RATE)) < samples:
        hit = scipy.signal.lfilter(*resonance, rng.standard_normal(stroke) * decay) * rng.uniform(0.3, 1.0)
        noise[start : start + stroke] += hit[: samples - start]
        position += rng.exponential(pace) + 0.04 + (rng.uniform(0.3, 1.0) if rng.random() < 0.1 else 0.0)
    return noise.astype(np.float32)


def hum(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Mains at 50 or 60 Hz with drawn harmonics, and a little broadband fan noise."""
    time = np.arange(samples) / SAMPLING_RATE
    base = rng.choice((50.0, 60.0)) * rng.uniform(0.998, 1.002)
    harmonics = np.arange(1, rng.integers(4, 40))
    strengths = rng.exponential(1.0, len(harmonics)) * harmonics ** -rng.uniform(0.5, 1.5)
    phases = rng.uniform(0, 2 * np.pi, len(harmonics))
    tones = strengths @ np.sin(2 * np.pi * base * np.outer(harmonics, time) + phases[:, None])
    return (tones + rng.uniform(0.05, 0.5) * coloured(samples, rng, rng.uniform(0.5, 1.5))).astype(np.float32)


def wind(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Low-frequency rumble whose strength follows gusts of about a second."""
    rumble = coloured(samples, rng, rng.uniform(1.5, 2.5))
    points = max(2, int(samples / SAMPLING_RATE * rng.uniform(0.5, 2.0)) + 2)
    gusts = np.interp(np.linspace(0, points - 1, samples), np.arange(points), rng.exponential(1.0, points))
    return (rumble * (0.1 + gusts)).astype(np.float32)


def coloured(samples: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose power falls as 1 / f^slope above 20 Hz, with unit variance."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLING_RATE), 20.0)
    noise = np.fft.irfft(spectrum * frequency ** (-slope / 2), samples)
    return (noise / max(noise.std(), 1e-12)).astype(np.float32)
