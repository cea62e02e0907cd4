"""The queue: recordings are decoded and cut side by side, their segments are recognised together.

A few threads decode and cut the recordings, in turns of one block, so that a long one keeps no short one waiting.
One thread owns the model: it fills each batch with segments of whatever recordings have some, in turns as well, and
gives every segment back to its own recording. Live streams go first.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asr.audio.errors import AudioError
from asr.audio.io import SAMPLING_RATE, stream
from asr.audio.report import Report
from asr.audio.segment import SpeechSegment
from asr.output.transcript import Segment, Transcript
from asr.server.errors import TooLong

if TYPE_CHECKING:
    from asr.recogniser import DecodeOptions
    from asr.transcriber import Transcriber

log = logging.getLogger(__name__)

DECODERS = 2  # threads
BATCHES_AHEAD = 4  # that may wait for the model before decoding pauses; the recordings share them


class Job:
    """One recording on its way; iterate over it for its segments, in order, each when it is recognised.

    Iterating raises `asr.AudioError` for a recording that cannot be used and `TooLong` over the limit.

    Args:
        source: the recording.
        name: how messages call it.
        max_seconds: its longest duration.
        options: how to decode it; None: as the transcriber does.
    """

    def __init__(self, source: Path, name: str, max_seconds: float, options: DecodeOptions | None = None):
        self.source, self.name, self.max_seconds, self.options = source, name, max_seconds, options
        self.samples = 0  # read so far
        self.report = Report()  # of what is missing in it
        self.waiting: deque[SpeechSegment] = deque()
        self.in_model = 0  # segments being recognised
        self.is_read = self.is_parked = self.is_cancelled = self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._results: asyncio.Queue[Segment | Exception | None] = asyncio.Queue()
        self._blocks: Iterator[np.ndarray] | None = None

    @property
    def duration(self) -> float:
        """Seconds read so far, in the end of the whole recording."""
        return self.samples / SAMPLING_RATE

    async def __aiter__(self) -> AsyncIterator[Segment]:
        while (result := await self._results.get()) is not None:
            if isinstance(result, Exception):
                raise result
            yield result

    def transcript(self, segments: list[Segment]) -> Transcript:
        """What is known of the recording, given the segments that it has so far."""
        return Transcript(list(segments), self.duration, self.report.missing, self.report.remarks)

    def read(self, transcriber: Transcriber) -> tuple[list[SpeechSegment], bool]:
        """Decode the next block as the transcriber would; the segments that it ends, and whether it was the last."""
        try:
            if self._blocks is None:
                TooLong.check(self.source, self.max_seconds)
                self.report.strict = transcriber.strict
                self._blocks = stream(self.source, report=self.report, **transcriber.reading)
                self._speech = transcriber.segmenter.start()
            block = next(self._blocks, None)
        except AudioError as error:  # its name on disk means nothing to the client
            raise AudioError(str(error).replace(str(self.source), self.name)) from None
        if block is None:
            return list(self._speech.finish()), True
        self.samples += len(block)
        if self.duration > self.max_seconds:
            raise TooLong(self.max_seconds)
        return list(self._speech.push(block)), False

    def give(self, result: Segment | Exception | None) -> None:
        """Hand a result to the one who iterates; None is the end."""
        try:
            self._loop.call_soon_threadsafe(self._results.put_nowait, result)
        except RuntimeError:  # the loop is closed: the server ends
            log.debug("%s: nobody waits for it any more", self.name)

    def close(self) -> None:
        """Let go of the file. Only in the thread whose turn it is."""
        if self._blocks is not None:
            self._blocks.close()


class Worker:
    """Owns the model.

    Args:
        transcriber: used by nobody else from now on, other than through `recognise` and `call`.
        on_batch: called with the segments and seconds of every batch.
    """

    def __init__(
        self, transcriber: Transcriber, on_batch: Callable[[int, float], None] = lambda segments, seconds: None
    ):
        self.transcriber, self.on_batch = transcriber, on_batch
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()  # those with segments waiting, whose turn it is first
        self._urgent: deque[tuple[SpeechSegment, Future]] = deque()
        self._calls: deque[tuple[Callable, Future]] = deque()
        self._is_closing = False
        transcriber.segmenter.start()  # loads the speech detector before several threads would do so at once
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @asynccontextmanager
    async def transcribe(
        self, source: Path, name: str, max_seconds: float, options: DecodeOptions | None = None
    ) -> AsyncIterator[Job]:
        """Put a recording into the queue; leaving the context early cancels its work."""
        job = Job(source, name, max_seconds, options)
        self._decoders.submit(self._turn, job)
        try:
            yield job
        finally:
            self._cancel(job)

    def recognise(self, segments: list[SpeechSegment]) -> list[Segment]:
        """Recognise ahead of all recordings, in one batch with them; blocks until it is done."""
        futures = [Future() for _ in segments]
        with self._changed:
            self._urgent.extend(zip(segments, futures, strict=True))
            self._changed.notify_all()
        return [future.result() for future in futures]

    def call(self, function: Callable[[], object]) -> Future:
        """Have a function called by the thread that owns the model."""
        future: Future = Future()
        with self._changed:
            self._calls.append((function, future))
            self._changed.notify_all()
        return future

    def close(self) -> None:
        """Stop after the batch at hand."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._decoders.shutdown(cancel_futures=True)
        self._thread.join()
        for waiting in (self._urgent, self._calls):
            while waiting:
                waiting.popleft()[1].set_exception(RuntimeError("the server stops"))

    def _turn(self, job: Job) -> None:
        """Decode one block of a recording, then let others have their turn."""
        if job.is_cancelled:
            job.close()
            return
        try:
            segments, is_last = job.read(self.transcriber)
        except Exception as error:
            job.close()
            self._finish(job, error)
            return
        with self._changed:
            job.is_read = is_last  # together with its segments: who looks at one looks at the other
            if job.is_cancelled:
                segments, job.is_read = [], False
            if segments and not job.waiting:
                self._jobs.append(job)
            job.waiting.extend(segments)
            share = BATCHES_AHEAD * self.transcriber.batch_size // max(1, len(self._jobs))
            job.is_parked = not job.is_read and not job.is_cancelled and len(job.waiting) >= max(1, share)
            if not job.is_read and not job.is_parked:
                self._submit(job)
            self._changed.notify_all()
        self._finish_if_done(job)

    def _submit(self, job: Job) -> None:
        if not self._is_closing:
            self._decoders.submit(self._turn, job)

    def _cancel(self, job: Job) -> None:
        with self._changed:
            job.is_cancelled = True
            job.waiting.clear()
            if job in self._jobs:
                self._jobs.remove(job)
            if job.is_parked:
                job.is_parked = False
                self._submit(job)

    def _finish_if_done(self, job: Job) -> None:
        with self._changed:
            done = job.is_read and not job.waiting and not job.in_model
        if done:
            self._finish(job, None)

    def _finish(self, job: Job, result: Exception | None) -> None:
        with self._changed:
            was_over, job.is_over = job.is_over, True
            job.is_cancelled = job.is_cancelled or result is not None
        if not was_over:
            job.give(result)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or self._calls or self._urgent or self._jobs)
                if self._is_closing:
                    return
                call = self._calls.popleft() if self._calls else None
                batch = [] if call else self._gather()
            if call:
                _settle(call[1], call[0])
            else:
                self._recognise(batch)

    def _gather(self) -> list[tuple[SpeechSegment, Job | Future]]:
        """The next batch: live streams, then the recording whose turn it is and those with segments as long.

        All of a batch are decoded with the same options; live streams with the transcriber's own.
        """
        size = self.transcriber.batch_size
        batch: list[tuple[SpeechSegment, Job | Future]] = []
        while self._urgent and len(batch) < size:
            batch.append(self._urgent.popleft())
        options = None if batch or not self._jobs else self._jobs[0].options
        while len(batch) < size and (jobs := [job for job in self._jobs if job.options == options]):
            job = jobs[0]
            if batch:
                length = batch[0][0].duration
                job = min(jobs, key=lambda other: abs(other.waiting[0].duration - length))
            self._jobs.remove(job)
            batch.append((job.waiting.popleft(), job))
            job.in_model += 1
            if job.waiting:
                self._jobs.append(job)
            if job.is_parked:
                job.is_parked = False
                self._submit(job)
        return batch

    def _recognise(self, batch: list[tuple[SpeechSegment, Job | Future]]) -> None:
        options = getattr(batch[0][1], "options", None)
        results = self._results([segment for segment, _ in batch], options)
        for (_, owner), result in zip(batch, results, strict=True):
            if isinstance(owner, Future):
                _settle(owner, lambda result=result: _raised(result))
                continue
            if isinstance(result, Exception):
                self._finish(owner, result)
            elif result.text:
                owner.give(result)
            with self._changed:  # only now, or a decoder could find the recording done before it has its last segment
                owner.in_model -= 1
            self._finish_if_done(owner)

    def _results(self, segments: list[SpeechSegment], options: DecodeOptions | None) -> list[Segment | Exception]:
        """Recognised segments; where a batch fails, each by itself, so that one cannot spoil the others."""
        try:
            results = self.transcriber.recognise(segments, options)
            self.on_batch(len(segments), sum(segment.duration for segment in segments))
            return results
        except Exception as error:
            if len(segments) == 1:
                return [error]
            return [self._results([segment], options)[0] for segment in segments]


def _settle(future: Future, function: Callable[[], object]) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)


def _raised(result: Segment | Exception) -> Segment:
    if isinstance(result, Exception):
        raise result
    return result
