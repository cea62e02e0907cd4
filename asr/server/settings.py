"""What a server may be told, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MEGABYTE = 1_000_000
IDLE = 10.0  # seconds without a byte after which an upload is given up


@dataclass(frozen=True)
class Settings:
    """Limits of a server.

    Args:
        folder: where uploads and results live for as long as their request; emptied at the start and the end.
        max_megabytes: size of an upload.
        max_minutes: duration of a recording.
        max_requests: recordings in the server at once, those being uploaded included.
        max_live: live streams at once.
        upload_seconds: time for an upload.
        api_key: what requests have to bring; None: nothing.
    """

    folder: Path
    max_megabytes: float = 100.0
    max_minutes: float = 120.0
    max_requests: int = 64
    max_live: int = 4
    upload_seconds: float = 120.0
    api_key: str | None = None

    @property
    def max_bytes(self) -> int:
        return round(self.max_megabytes * MEGABYTE)

    @property
    def max_seconds(self) -> float:
        return 60 * self.max_minutes
