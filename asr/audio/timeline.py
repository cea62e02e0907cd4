"""Decoded frames laid on the timeline of their container."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

JITTER = 0.1  # seconds by which clocks and rounding may move a frame
ROUNDING = 0.005  # the same next to damage, where the length of one lost packet counts
RESTART = 1.0  # seconds; a time that goes back by more means that the clock was set anew
PROOF = 1.0  # seconds of frames that must agree on a jump before it is believed
LONGEST_JUMP = 3600.0  # seconds; where the length is not known, more is another clock
LAST_JUMP = 60.0  # the same for the last frames, which cannot prove it
SILENCE_BLOCK = 1 << 16  # samples


@dataclass
class Frame:
    """Samples [n, channels] that belong at `time` (seconds; None: right behind the last), after damage or not."""

    samples: np.ndarray
    time: float | None
    damaged: bool = False


class Timeline:
    """Puts frames where they belong: silence where nothing is, and one false time stamp moves nothing.

    Args:
        rate: samples a second.
        channels: of every frame.
        on_gap: called with start and end in seconds of each silence, and whether damage made it.
    """

    def __init__(self, rate: int, channels: int, on_gap: Callable[[float, float, bool], None]):
        self.rate, self.channels, self.on_gap = rate, channels, on_gap
        self.position = 0  # samples given out
        self.shift = 0.0  # seconds from the clock of the container to ours
        self.limit: float | None = None  # seconds; no frame can be later
        self.held: list[Frame] = []  # frames after a jump that is not believed yet

    @property
    def seconds(self) -> float:
        """How much has been given out."""
        return self.position / self.rate

    def start_part(self, origin: float, length: float | None) -> None:
        """From here on the container's time `origin` is now, and no frame is later than `length` seconds."""
        self.shift = self.seconds - origin
        self.limit = None if length is None else self.seconds + length

    def place(self, frame: Frame) -> Iterator[np.ndarray]:
        """What comes next: nothing as long as the frame's time has yet to be believed."""
        if self.held:
            expected = self.held[-1].time + self._length(self.held[-1:])
            time = expected if frame.time is None else frame.time
            if expected - RESTART < time <= expected + JITTER:  # a little back: frames without a time came before it
                self.held.append(Frame(frame.samples, time, frame.damaged))
                if self._length(self.held) >= PROOF:
                    yield from self.release(True)
                return
            goes_on = abs(time + self.shift - self.seconds - self._length(self.held)) <= RESTART
            yield from self.release(time > expected and not goes_on)
        jump = 0.0 if frame.time is None else frame.time + self.shift - self.seconds
        if abs(jump) > RESTART:
            self.held = [frame]
            return
        if jump > (ROUNDING if frame.damaged else JITTER):
            yield from self.silence(jump, frame.damaged)
        yield from self._sound(frame.samples)

    def release(self, believed: bool) -> Iterator[np.ndarray]:
        """The frames held back: at their own time or, where that is not believed, right behind the last."""
        held, self.held = self.held, []
        if held and believed:
            jump = held[0].time + self.shift - self.seconds
            if 0 < jump <= (LONGEST_JUMP if self.limit is None else self.limit - self.seconds):
                yield from self.silence(jump, held[0].damaged)
            else:
                self.shift -= jump
        for frame in held:
            yield from self._sound(frame.samples)

    def finish_part(self) -> Iterator[np.ndarray]:
        """What is still held back: there may be less of it than would prove a jump."""
        jump = self.held[0].time + self.shift - self.seconds if self.held else 0.0
        yield from self.release(self.limit is not None or jump < LAST_JUMP)

    def silence(self, seconds: float, damaged: bool) -> Iterator[np.ndarray]:
        """Nothing, for so long."""
        self.on_gap(self.seconds, self.seconds + seconds, damaged)
        left = round(seconds * self.rate)
        while left > 0:
            length = min(left, SILENCE_BLOCK)
            yield from self._sound(np.zeros((length, self.channels), np.float32))
            left -= length

    def _sound(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        self.position += len(samples)
        yield samples

    def _length(self, frames: list[Frame]) -> float:
        return sum(len(frame.samples) for frame in frames) / self.rate
