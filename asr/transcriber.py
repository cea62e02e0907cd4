"""Recordings in, transcripts out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from asr.audio.errors import AudioError
from asr.audio.io import SAMPLING_RATE, Source, from_array, resample, source_name, stream
from asr.audio.segment import Segmenter, SpeechSegment
from asr.loading import load_recogniser
from asr.output.transcript import Segment, Transcript
from asr.recogniser import DecodeOptions, Recogniser

POOL_BATCHES = 4  # batches gathered before their segments are sorted by length, so that little is padding

Enhancer = Callable[[np.ndarray, int], np.ndarray]  # wave [samples], its rate -> cleaner wave
Corrector = Callable[..., str]  # n-best texts, best first[, score_texts=log p(text | audio)] -> corrected text


class Transcriber:
    """Transcribes recordings of any length: `Transcriber.from_pretrained()("talk.mp3").text`.

    Args:
        recogniser: the model, see `asr.loading.load_recogniser`.
        batch_size: segments recognised at once, of one recording or of several.
        options: how to decode, word times included.
        segmenter: finds the speech.
        enhancer: cleans each segment before recognition.
        corrector: rewrites the text of each segment after it.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        *,
        batch_size: int = 8,
        options: DecodeOptions | None = None,
        segmenter: Segmenter | None = None,
        enhancer: Enhancer | None = None,
        corrector: Corrector | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.recogniser = recogniser
        self.batch_size = batch_size
        self.options = options or DecodeOptions()
        self.segmenter = segmenter or Segmenter()
        self.enhancer = enhancer
        self.corrector = corrector

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike | None = None, device: str = "auto", **kwargs
    ) -> Transcriber:
        """Load a model from a folder or a Hub id; None is the compact model that ships in the package.

        Args:
            name: a `CTCModel` of ours or any CTC model of transformers.
            device: "auto", "cpu", "cuda", "cuda:1", "mps" ...
            kwargs: the arguments of `Transcriber`.
        """
        return cls(load_recogniser(name, device), **kwargs)

    def __call__(self, source, sampling_rate: int | None = None) -> Transcript:
        """Transcribe one recording.

        Args:
            source: path, "-", encoded bytes, binary file, or an array [samples] or [channels, samples].
            sampling_rate: of an array, in Hz.

        Raises:
            AudioError: the recording cannot be used; the message says why.
        """
        return next(self._transcribe([_Recording(source, sampling_rate)]))[1]

    def transcribe_many(
        self,
        sources: Iterable[Source],
        on_error: Callable[[Source, AudioError], None] | None = None,
        progress: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[tuple[Source, Transcript]]:
        """Transcribe recordings in shared batches; yields (source, transcript) in order, each when done.

        Args:
            sources: what a call takes, arrays excepted.
            on_error: called in place of a result for a recording that cannot be used; None raises.
            progress: called with the seconds of audio read since the last call.
        """
        yield from self._transcribe((_Recording(source) for source in sources), on_error, progress)

    def _transcribe(self, recordings, on_error=None, progress=lambda seconds: None):
        waiting: deque[_Recording] = deque()
        pool: list[tuple[_Recording, SpeechSegment]] = []
        for recording in recordings:
            waiting.append(recording)
            try:
                for segment in self.segmenter(recording.blocks(progress)):
                    pool.append((recording, segment))
                    if len(pool) == POOL_BATCHES * self.batch_size:
                        self._recognise(pool)
                        yield from _finished(waiting, on_error)
            except AudioError as error:
                recording.error = error
            recording.is_read = True
        self._recognise(pool)
        yield from _finished(waiting, on_error)

    def recognise(self, segments: list[SpeechSegment]) -> list[Segment]:
        """Recognise one batch of speech segments, of one recording or of several; texts may be empty."""
        utterances = self.recogniser.transcribe_batch([self._wave(segment) for segment in segments], self.options)
        return [self._segment(*pair) for pair in zip(segments, utterances, strict=True)]

    def _recognise(self, pool: list[tuple[_Recording, SpeechSegment]]) -> None:
        """Recognise and remove everything in the pool."""
        pool.sort(key=lambda item: item[1].duration, reverse=True)
        while pool:
            batch = [item for item in pool[: self.batch_size] if not item[0].error]
            del pool[: self.batch_size]
            if not batch:
                continue
            for (recording, _), segment in zip(batch, self.recognise([s for _, s in batch]), strict=True):
                if segment.text:
                    recording.segments.append(segment)

    def _wave(self, segment: SpeechSegment) -> np.ndarray:
        wave = self.enhancer(segment.wave, SAMPLING_RATE) if self.enhancer else segment.wave
        return resample(wave, SAMPLING_RATE, self.recogniser.sampling_rate)

    def _segment(self, speech: SpeechSegment, utterance) -> Segment:
        words = [word.shifted(speech.start) for word in utterance.words]
        segment = Segment(speech.start, speech.end, utterance.text, words, utterance.score, utterance.nbest)
        if self.corrector and segment.text:
            texts = [text for text, _ in segment.nbest] or [segment.text]
            audio = {"score_texts": utterance.score_texts} if utterance.score_texts else {}
            return segment.with_text(self.corrector(texts, **audio))
        return segment


@dataclass
class _Recording:
    """A recording on its way: what has been read and recognised of it so far."""

    source: object
    sampling_rate: int | None = None
    samples: int = 0
    is_read: bool = False
    error: AudioError | None = None
    segments: list[Segment] = field(default_factory=list)

    def blocks(self, progress: Callable[[float], None]) -> Iterator[np.ndarray]:
        is_encoded = hasattr(self.source, "read") or isinstance(self.source, (str, bytes, os.PathLike))
        if is_encoded and self.sampling_rate is not None:
            raise AudioError(f"{source_name(self.source)}: sampling_rate is for arrays; a file says its own")
        for block in stream(self.source) if is_encoded else [from_array(self.source, self.sampling_rate)]:
            self.samples += len(block)
            progress(len(block) / SAMPLING_RATE)
            yield block

    def transcript(self) -> Transcript:
        return Transcript(sorted(self.segments, key=lambda s: s.start), self.samples / SAMPLING_RATE)


def _finished(waiting: deque[_Recording], on_error) -> Iterator[tuple[Source, Transcript]]:
    """Take the recordings that are read to their end off the queue, once all segments are recognised."""
    while waiting and waiting[0].is_read:
        recording = waiting.popleft()
        if recording.error is None:
            yield recording.source, recording.transcript()
        elif on_error is None:
            raise recording.error
        else:
            on_error(recording.source, recording.error)
