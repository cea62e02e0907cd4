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

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """The next frames [n, samples], louder where it is quiet."""
        gains = np.ones((len(frames), 1), np.float32)
        for i, effective in enumerate(_effective(frames).tolist()):
            self.loudness = max(effective, self.loudness * self.fall, FLOOR)
            if self.loudness < TARGET:
                gains[i] = TARGET / self.loudness
        return frames * gains


def levelled(wave: np.ndarray) -> np.ndarray:
    """The wave [samples], louder where all of it is quiet."""
    whole = len(wave) // FRAME * FRAME
    parts = wave[:whole].reshape(-1, FRAME), wave[None, whole:]
    loudest = max((float(_effective(part).max()) for part in parts if part.size), default=0.0)
    return wave if not FLOOR < loudest < TARGET else wave * np.float32(TARGET / loudest)


def _effective(frames: np.ndarray) -> np.ndarray:
    """Effective values [n] of frames [n, samples]."""
    return np.sqrt(np.mean(np.square(frames), axis=-1))
