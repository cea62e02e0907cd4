"""How many recordings the server takes in at once, and when to try again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from asr.server.errors import ApiError

LONGEST_WAIT = 60  # seconds that a client is told to wait


class Admission:
    """Counts what is being worked on; lives on the event loop, so it needs no lock.

    Args:
        limit: recordings at once.
    """

    def __init__(self, limit: int):
        self.limit, self.inside = limit, 0
        self._mean_seconds = 1.0  # of a stay, over the last ones

    @contextmanager
    def enter(self) -> Iterator[None]:
        """A place for as long as the context lasts.

        Raises:
            ApiError: 429 with the time after which a place should be free.
        """
        if self.inside >= self.limit:
            raise ApiError(429, f"{self.inside} recordings are being worked on, the limit of this server: try again "
                                f"in {self.wait} s", "server_busy", retry_after=self.wait)
        self.inside += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.inside -= 1
            self._mean_seconds += 0.1 * (time.monotonic() - started - self._mean_seconds)

    @property
    def wait(self) -> int:
        """Seconds until one of the places should be free: they are left one after the other."""
        return min(LONGEST_WAIT, max(1, math.ceil(self._mean_seconds / self.limit)))
