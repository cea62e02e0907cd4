"""What a reader has to say about a recording beside its sound: what is missing, and what is odd."""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN_GAPS = 5  # a line is there to be read


@dataclass(frozen=True)
class Gap:
    """A stretch that the recording had and that cannot be decoded, in seconds; `end` None: nobody knows how long."""

    start: float
    end: float | None

    def __str__(self) -> str:
        if self.end is None:
            return f"all after {self.start:.2f} s (how much is not known)"
        return f"{self.start:.2f} to {self.end:.2f} s"


@dataclass
class Report:
    """Filled while a recording is read; complete when its last block is there.

    Attributes:
        missing: what is lost, in order; the sound is silent there, so later times are right.
        remarks: one sentence each on what a reader should know although nothing is lost.
        strict: readers raise at the first loss.
    """

    strict: bool = False
    missing: list[Gap] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def lose(self, start: float, end: float | None) -> None:
        """Note a gap; one that touches the last is joined to it."""
        if self.missing and self.missing[-1].end is not None and start <= self.missing[-1].end + 0.05:
            start = self.missing.pop().start
        self.missing.append(Gap(start, end))


def told(missing: list[Gap]) -> str:
    """Gaps in one line."""
    shown = ", ".join(map(str, missing[:SHOWN_GAPS]))
    more = f" and {len(missing) - SHOWN_GAPS} more stretches" if len(missing) > SHOWN_GAPS else ""
    return f"damaged or truncated: missing {shown}{more}"
