"""What the routes share."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asr.audio.errors import AudioError
from asr.server.admission import Admission
from asr.server.errors import ApiError, ClientGone, TooLong
from asr.server.metrics import Metrics
from asr.server.settings import Settings
from asr.server.worker import Worker

if TYPE_CHECKING:
    from asr.recogniser import DecodeOptions
    from asr.transcriber import Transcriber

ALIAS = "whisper-1"  # which many clients ask for whatever the server


class Denoiser(Protocol):
    """What the server needs of `enhance.Denoiser`."""

    def denoise_file(self, source, target: Path, progress: Callable[[float], None]) -> None: ...


class EnhancingThread:
    """One thread that owns the denoiser.

    Args:
        denoiser: cleans files.
        plot: plot(denoiser, source, path) writes a picture of what it does to a recording.
    """

    def __init__(self, denoiser: Denoiser, plot: Callable[[Denoiser, Path, Path], None] | None = None):
        self.denoiser, self.plot = denoiser, plot
        self._thread = ThreadPoolExecutor(1, "enhance")

    async def enhance(
        self, source: Path, target: Path, name: str, max_seconds: float,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """Clean a recording; cancelling stops the work.

        Args:
            name: how messages call the recording.
            progress: called in the other thread with the seconds done so far.

        Raises:
            asr.AudioError: it cannot be used.
            TooLong: it is over the limit.
        """
        is_cancelled, done = threading.Event(), 0.0

        def watched(seconds: float) -> None:
            nonlocal done
            done += seconds
            if is_cancelled.is_set():
                raise ClientGone
            if done > max_seconds:
                raise TooLong(max_seconds)
            progress(done)

        await asyncio.to_thread(TooLong.check, source, max_seconds)
        run = contextvars.copy_context().run  # the page's progress bar knows by the context whose it is
        work = partial(run, self.denoiser.denoise_file, source, target, watched)
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except AudioError as error:
            raise AudioError(str(error).replace(str(source), name)) from None
        except asyncio.CancelledError:
            is_cancelled.set()
            raise

    async def draw(self, source: Path, target: Path) -> Path | None:
        """A picture of what the denoiser does to the first minute; None where it has none."""
        if self.plot is None:
            return None
        await asyncio.get_running_loop().run_in_executor(self._thread, self.plot, self.denoiser, source, target)
        return target

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


@dataclass
class Services:
    """Models and limits of a running server.

    Args:
        settings: the limits.
        transcriber: what recognises; the server's worker owns it from now on.
        model: its name, as requests and /v1/models call it.
        enhancing: what cleans; None: nothing does.
        enhancement_model: its name.
    """

    settings: Settings
    transcriber: Transcriber
    model: str
    enhancing: EnhancingThread | None = None
    enhancement_model: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self):
        self.metrics = Metrics()
        self.worker = Worker(self.transcriber, self.metrics.on_batch)
        self.admission = Admission(self.settings.max_requests)
        self.live_streams = 0

    @property
    def models(self) -> list[str]:
        return [self.model, *([self.enhancement_model] if self.enhancing else [])]

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the recogniser declares; none: it does not say."""
        return getattr(self.transcriber.recogniser, "languages", ())

    def check_model(self, wanted: str, loaded: str) -> None:
        """Raise ApiError 404 for a model that is not the one that does this work."""
        if wanted not in ("", ALIAS, loaded):
            message = f"model {wanted!r} is not loaded; this server has {loaded!r}"
            raise ApiError(404, message, "model_not_found", "model")

    def options(self, **told: object) -> tuple[DecodeOptions | None, list[str]]:
        """How to decode for a request: what is told where the model can be told it, and the names of what it cannot.

        Args:
            told: fields of `DecodeOptions`.

        Returns:
            the options, None where they are the transcriber's own, and the fields that the model has no use for.
        """
        chosen, useless = None, []
        for name, value in told.items():
            if not value or (name == "language" and self.languages == (value,)):
                continue
            candidate = replace(chosen or self.transcriber.options, **{name: value})
            try:
                self.transcriber.recogniser.prepare(candidate)
                chosen = candidate
            except ValueError:
                useless.append(name)
        return chosen, useless

    def close(self) -> None:
        self.worker.close()
        if self.enhancing:
            self.enhancing.close()
