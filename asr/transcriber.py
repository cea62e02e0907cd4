"""Recordings in, transcripts out."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from numbers import Number

import numpy as np

from asr.audio.clips import Clip, clip_segments
from asr.audio.errors import AudioError
from asr.audio.io import SAMPLING_RATE, Source, from_array, resample, source_name, stream
from asr.audio.level import levelled
from asr.audio.report import Report, told
from asr.audio.segment import Segmenter, SpeechSegment
from asr.loading import load_recogniser
from asr.memory import give_back
from asr.output.transcript import Segment, Transcript, fitted
from asr.recogniser import DecodeOptions, Recogniser

GIVE_BACK_AFTER = 40.0  # seconds of speech, in which giving back memory takes no time that counts
USUAL = 6.0  # seconds of a segment: fewer longer ones make a batch, so that it needs no more memory
POOL_BATCHES = 4  # batches gathered before their segments are sorted by length, so that little is padding

Enhancer = Callable[[np.ndarray, int], np.ndarray]  # wave [samples], its rate -> cleaner wave
Writer = Callable[[list[str]], list[str]]  # texts of a recording's segments -> the same with case and punctuation
Corrector = Callable[..., str]  # n-best texts, best first[, score_texts=log p(text | audio)] -> corrected text


class Transcriber:
    """Transcribes recordings of any length: `Transcriber.from_pretrained()("talk.mp3").text`.

    Args:
        recogniser: the model, see `asr.loading.load_recogniser`.
        batch_size: segments recognised at once, of one recording or of several; fewer where they are long.
        options: how to decode, word times included.
        segmenter: finds the speech.
        enhancer: cleans each segment before recognition.
        corrector: rewrites the text of each segment after it.
        writer: restores case and punctuation of a recording once all of it is recognised.
        channel: of every recording, from 1; None mixes them.
        track: of files with several audio tracks, from 1; None is the one that the file calls its default.
        clips: the stretches of every recording that are transcribed; None: all of it.
        strict: a damaged recording is an error; else what is left of it is transcribed and `Transcript.missing` says
            what is not there.
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
        writer: Writer | None = None,
        channel: int | None = None,
        track: int | None = None,
        clips: list[Clip] | None = None,
        strict: bool = False,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.recogniser = recogniser
        self.batch_size = batch_size
        self.options = options or DecodeOptions()
        self.segmenter = segmenter or Segmenter()
        self.enhancer = enhancer
        self.corrector = corrector
        self.writer = writer
        self.reading = {"channel": channel, "track": track}
        self.clips, self.strict = clips, strict
        self._heard = 0.0  # seconds of speech since memory was given back

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike | None = None, device: str = "auto", compute_type: str = "auto", **kwargs
    ) -> Transcriber:
        """Load a model by the name of a shipped one, from a folder or a Hub id; None is the default that ships.

        Args:
            name: a model of ours or any CTC model of transformers (`asr.loading.SHIPPED` names what ships).
            device: "auto", "cpu", "cuda", "cuda:1", "mps" ...
            compute_type: "auto", "float32", "bfloat16" or "int8" (`asr.hybrid.precision`).
            kwargs: the arguments of `Transcriber`.

        Raises:
            OSError: there is no such model.
            ValueError: it is of another kind, or has not what the options ask for.
        """
        transcriber = cls(load_recogniser(name, device, compute_type), **kwargs)
        transcriber.recogniser.prepare(transcriber.options)
        return transcriber

    def __call__(self, source, sampling_rate: int | None = None) -> Transcript | list[Transcript]:
        """Transcribe one recording, or a list of them in shared batches; warns of each that is damaged.

        Args:
            source: path, "-", encoded bytes, binary file, an array [samples] or [channels, samples], or as in
                transformers a dict with "array" (or "raw") and "sampling_rate"; or a list of any of these.
            sampling_rate: of arrays, in Hz.

        Raises:
            AudioError: the recording cannot be used; the message says why.
        """
        several = isinstance(source, (list, tuple)) and not (source and isinstance(source[0], (Number, list, tuple)))
        recordings = [_Recording.of(item, sampling_rate) for item in (source if several else [source])]
        transcripts = [transcript for _, transcript in self._transcribe(recordings)]
        for recording, transcript in zip(recordings, transcripts, strict=True):
            if transcript.missing:
                warnings.warn(f"{source_name(recording.source)}: {told(transcript.missing)}", stacklevel=2)
        return transcripts if several else transcripts[0]

    def transcribe_many(
        self,
        sources: Iterable[Source],
        on_error: Callable[[Source, AudioError], None] | None = None,
        progress: Callable[[float], None] = lambda seconds: None,
        on_segments: Callable[[Source, list[Segment]], None] = lambda source, segments: None,
        eager: bool = False,
    ) -> Iterator[tuple[Source, Transcript]]:
        """Transcribe recordings in shared batches; yields (source, transcript) in order, each when done.

        Args:
            sources: what a call takes, arrays excepted.
            on_error: called in place of a result for a recording that cannot be used; None raises.
            progress: called with the seconds of audio read since the last call.
            on_segments: called with the next segments of a recording, in order, as soon as they are recognised.
            eager: recognise each batch when it is full, not several sorted by length, so that nobody waits for them.
        """
        recordings = (_Recording(source) for source in sources)
        yield from self._transcribe(recordings, on_error, progress, on_segments, eager)

    def _transcribe(
        self, recordings, on_error=None, progress=lambda seconds: None, on_segments=lambda *_: None, eager=False
    ):
        most = self.batch_size * (1 if eager else POOL_BATCHES)
        waiting: deque[_Recording] = deque()
        pool: list[tuple[_Recording, SpeechSegment]] = []
        for recording in recordings:
            recording.language = self.language
            waiting.append(recording)
            try:
                for segment in self._segments(recording.blocks(progress, self.strict, self.reading)):
                    pool.append((recording, segment))
                    if len(pool) == most:
                        self._recognise(pool, on_segments)
                        yield from _finished(waiting, on_error, self.writer)
            except AudioError as error:
                recording.error = error
            recording.is_read = True
            if self.clips and not recording.error and recording.seconds <= self.clips[-1][0]:
                recording.report.remarks.append(f"ends at {recording.seconds:.1f} s, before the clip that starts at "
                                                f"{self.clips[-1][0]:g} s")
        self._recognise(pool, on_segments)
        yield from _finished(waiting, on_error, self.writer)

    @property
    def language(self) -> str | None:
        """What recordings are taken to be in: as the options say, or the only language that the model knows."""
        known = getattr(self.recogniser, "languages", ())
        return self.options.language or (known[0] if len(known) == 1 else None)

    def _segments(self, blocks: Iterator[np.ndarray]) -> Iterator[SpeechSegment]:
        return self.segmenter(blocks) if self.clips is None else clip_segments(self.segmenter, blocks, self.clips)

    def recognise(self, segments: list[SpeechSegment], options: DecodeOptions | None = None) -> list[Segment]:
        """Recognise one batch of speech segments, of one recording or of several; texts may be empty.

        Args:
            segments: the batch.
            options: other ones than the transcriber's own.
        """
        waves = [self._wave(segment) for segment in segments]
        utterances = self.recogniser.transcribe_batch(waves, options or self.options)
        self._heard += sum(segment.duration for segment in segments)
        if self._heard > GIVE_BACK_AFTER:
            self._heard = 0.0
            give_back()
        return [self._segment(*pair) for pair in zip(segments, utterances, strict=True)]

    def _recognise(self, pool: list[tuple[_Recording, SpeechSegment]], on_segments: Callable) -> None:
        """Recognise and remove everything in the pool."""
        ready: dict[int, tuple[_Recording, list[Segment]]] = {id(r): (r, []) for r, _ in pool}  # in their order
        pool.sort(key=lambda item: item[1].duration, reverse=True)
        while pool:
            count = self._batch(pool)
            batch = [item for item in pool[:count] if not item[0].error]
            del pool[:count]
            if not batch:
                continue
            for (recording, _), segment in zip(batch, self.recognise([s for _, s in batch]), strict=True):
                if segment.text:
                    recording.segments.append(segment)
                    ready[id(recording)][1].append(segment)
        for recording, segments in ready.values():
            if segments:
                on_segments(recording.source, sorted(segments, key=lambda s: s.start))

    def _batch(self, pool: list[tuple[_Recording, SpeechSegment]]) -> int:
        """How many of the next segments, the longest first, make a batch."""
        total = accumulate(segment.duration for _, segment in pool[: self.batch_size])
        return max(1, sum(seconds <= USUAL * self.batch_size for seconds in total))

    def _wave(self, segment: SpeechSegment) -> np.ndarray:
        wave = levelled(segment.wave)
        wave = self.enhancer(wave, SAMPLING_RATE) if self.enhancer else wave
        return resample(wave, SAMPLING_RATE, self.recogniser.sampling_rate)

    def _segment(self, speech: SpeechSegment, utterance) -> Segment:
        words = fitted([word.shifted(speech.start) for word in utterance.words], speech.start, speech.end)
        segment = Segment(speech.start, speech.end, utterance.text, words, utterance.score, utterance.nbest)
        if self.corrector and segment.text:
            texts = [text for text, _ in segment.nbest] or [segment.text]
            audio = {"score_texts": utterance.score_texts} if utterance.score_texts else {}
            corrected = segment.with_text(self.corrector(texts, **audio))
            return replace(corrected, words=fitted(corrected.words, speech.start, speech.end))
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
    report: Report = field(default_factory=Report)
    language: str | None = None

    @classmethod
    def of(cls, source, sampling_rate: int | None) -> _Recording:
        """From what a call takes, dicts included."""
        if not isinstance(source, dict):
            return cls(source, sampling_rate)
        array = source.get("array", source.get("raw"))
        if array is None or "sampling_rate" not in source:
            raise AudioError(f'dict with {sorted(map(str, source))}: expected "array" (or "raw") and "sampling_rate"')
        return cls(array, source["sampling_rate"])

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLING_RATE

    def blocks(self, progress: Callable[[float], None], strict: bool, reading: dict) -> Iterator[np.ndarray]:
        is_encoded = hasattr(self.source, "read") or isinstance(self.source, (str, bytes, os.PathLike))
        if is_encoded and self.sampling_rate is not None:
            raise AudioError(f"{source_name(self.source)}: sampling_rate is for arrays; a file says its own")
        if is_encoded:
            self.report.strict = strict
            blocks = stream(self.source, report=self.report, **reading)
        else:
            blocks = [from_array(self.source, self.sampling_rate, channel=reading["channel"])]
        for block in blocks:
            self.samples += len(block)
            progress(len(block) / SAMPLING_RATE)
            yield block

    def transcript(self, writer: Writer | None = None) -> Transcript:
        segments = sorted(self.segments, key=lambda s: s.start)
        if writer and segments:
            texts = writer([segment.text for segment in segments])
            segments = [segment.with_text(text) for segment, text in zip(segments, texts, strict=True)]
        return Transcript(segments, self.seconds, self.report.missing, self.report.remarks, self.language)


def _finished(waiting: deque[_Recording], on_error, writer: Writer | None) -> Iterator[tuple[Source, Transcript]]:
    """Take the recordings that are read to their end off the queue, once all segments are recognised."""
    while waiting and waiting[0].is_read:
        recording = waiting.popleft()
        if recording.error is None:
            yield recording.source, recording.transcript(writer)
        elif on_error is None:
            raise recording.error
        else:
            on_error(recording.source, recording.error)
