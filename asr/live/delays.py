"""How long after it was spoken a word is settled."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from asr.live.stream import LiveEvent


@dataclass
class Delays:
    """Seconds from the end of each word to the moment at which it was settled, on the clock of the stream."""

    start: float = field(default_factory=time.monotonic)
    seconds: list[float] = field(default_factory=list)
    until: float = float("-inf")  # end of the last word that is counted

    def note(self, events: list[LiveEvent], now: float | None = None) -> None:
        """Take note of events that have just come."""
        passed = (time.monotonic() if now is None else now) - self.start
        for event in events:
            new = [word for word in event.segment.words[: event.settled] if word.end > self.until]
            self.seconds += [max(0.0, passed - word.end) for word in new]
            self.until = max([self.until, *(word.end for word in new)])

    def report(self) -> str:
        """Median and 95th percentile."""
        if not self.seconds:
            return "no words"
        median, p95 = np.percentile(self.seconds, [50, 95])
        count = len(self.seconds)
        return f"{count} words, settled {median:.2f} s after their end (median), {p95:.2f} s (95th percentile)"
