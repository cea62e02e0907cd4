"""Quiet sound made loud enough to be heard; sound of ordinary level is left as it is, to the last bit."""

from __future__ import annotations

import numpy as np

TARGET = 10 ** (-40 / 20)  # effective value of frames of speech below which they are raised
FLOOR = 10 ** (-100 / 20)  # what is below is digital silence and rounding
FALL = 10 ** (-3 / 20)  # the loudness that counts falls by so much a second, slower than speech pauses
FRAME = 512  # samples: 32 ms


class Leveller:
    """Raises the frames of one stream by what its loudest recent frames lack.

    Args:
        frame_seconds: length of a frame.
    """

    def __init__(self, frame_seconds: float):
        self.fall, self.loudness = FALL**frame_seconds, FLOOR

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The frame [samples], louder where it is quiet."""
        self.loudness = max(_effective(frame), self.loudness * self.fall, FLOOR)
        return frame if self.loudness >= TARGET else frame * np.float32(TARGET / self.loudness)


def levelled(wave: np.ndarray) -> np.ndarray:
    """The wave [samples], louder where all of it is quiet."""
    loudest = max((_effective(wave[i : i + FRAME]) for i in range(0, len(wave), FRAME)), default=0.0)
    return wave if not FLOOR < loudest < TARGET else wave * np.float32(TARGET / loudest)


def _effective(frame: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(frame)))) if len(frame) else 0.0
