"""What is done to the rows of a part. A work holds its model and gives one result for each row, in order.

A recording that cannot be used gives a row whose `error` says why. What fails for no fault of the recordings, because
the device is gone or the disk is full, is raised: the run stops and goes on later.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import numpy as np

from asr.audio.errors import AudioError
from recipes.corpus.job import Job
from recipes.corpus.parts import Row, key
from recipes.corpus.sources import SAMPLING_RATE, Named, Sources
from recipes.corpus.storage import Folder

ABOUT = {"id": "string", "path": "string", "start": "float64", "seconds": "float64", "speaker": "string"}
SAID = {"text": "string", "confidence": "float64", "segments": "segments", "words": "words"}
ERROR = {"error": "string"}
COUNTS = ("word_errors", "reference_words", "normalised_word_errors", "normalised_reference_words")


class Work(Protocol):
    columns: dict[str, str]  # of the results, see `recipes.corpus.parts.Results`

    def __init__(self, job: Job, out: Folder): ...

    def __call__(self, rows: list[Row]) -> list[Row]: ...


def about(row: Row) -> Row:
    """What a result says of its row whatever becomes of it."""
    return {name: row.get(name) for name in (*ABOUT, "error")}


class Transcribe:
    """Texts, word times and confidence of recordings of any length, by `asr.Transcriber`."""

    columns = {**ABOUT, "reference": "string", **SAID, **ERROR}

    def __init__(self, job: Job, out: Folder):
        from asr import Transcriber
        from asr.recogniser import DecodeOptions

        options = DecodeOptions(decoder=job.decoder, word_timestamps=job.word_timestamps)
        self.transcriber = Transcriber.from_pretrained(
            job.model, job.device, options=options, batch_size=job.batch_size
        )
        self.sources = Sources()

    def __call__(self, rows: list[Row]) -> list[Row]:
        results = [{**about(row), "reference": row.get("text")} for row in rows]
        waiting: deque[Row] = deque()  # results of what the transcriber has in hand, in the order of its answers

        def sources() -> Iterator[str | Named]:
            for row, result in zip(rows, results, strict=True):
                try:
                    source = self.sources.open(row)
                except AudioError as error:
                    result["error"] = str(error)
                    continue
                waiting.append(result)
                yield source

        def failed(_, error: AudioError) -> None:
            waiting.popleft()["error"] = str(error)

        for _, transcript in self.transcriber.transcribe_many(sources(), failed):
            waiting.popleft().update(said(transcript))
        return results


def said(transcript) -> Row:
    """A transcript as columns."""
    words = transcript.words
    return {
        "seconds": transcript.duration,
        "text": transcript.text,
        "confidence": float(np.mean([word.confidence for word in words])) if words else None,
        "segments": [{"start": s.start, "end": s.end, "text": s.text} for s in transcript.segments],
        "words": [{"start": w.start, "end": w.end, "text": w.text, "confidence": w.confidence} for w in words],
    }


class Score(Transcribe):
    """Texts, and the word errors of each recording against the text of its row, as said and normalised."""

    columns = {**Transcribe.columns, **dict.fromkeys(COUNTS, "int64")}

    def __init__(self, job: Job, out: Folder):
        from asr.score import whisper_normaliser

        super().__init__(job, out)
        _, self.normalise = whisper_normaliser()

    def __call__(self, rows: list[Row]) -> list[Row]:
        results = super().__call__(rows)
        for result in results:
            if result["reference"] is None and not result["error"]:
                result["error"] = f"{result['id']}: the row has no text to score against"
            elif not result["error"]:
                result.update(self._counts(result["reference"], result["text"]))
        return results

    def _counts(self, reference: str, hypothesis: str) -> dict[str, int]:
        from asr.score import error_counts

        raw = error_counts([reference], [hypothesis])
        normalised = error_counts([self.normalise(reference)], [self.normalise(hypothesis)])
        values = (raw.errors, raw.reference, normalised.errors, normalised.reference)
        return {name: int(value[0]) for name, value in zip(COUNTS, values, strict=True)}


class Enhance:
    """Clean recordings in OUT/audio, of the same rate, channels and length; FLAC."""

    columns = {**ABOUT, "enhanced": "string", **ERROR}

    def __init__(self, job: Job, out: Folder):
        from enhance import Denoiser

        device = _device(job.device)
        self.denoiser = Denoiser.from_pretrained(job.model, attenuation_limit=job.attenuation_limit, device=device)
        self.sources, self.out = Sources(), out

    def __call__(self, rows: list[Row]) -> list[Row]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Row:
        name, seconds = audio_name(row["id"]), [0.0]
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "clean.flac")

            def heard(more: float) -> None:
                seconds[0] += more

            try:
                self.denoiser.denoise_file(self.sources.open(row), target, heard)
            except AudioError as error:
                return {**about(row), "error": str(error)}
            self.out.write_file(name, target)
        return {**about(row), "seconds": seconds[0], "enhanced": name}


class Synthesise:
    """Texts spoken in drawn voices, tempi and pitches into OUT/audio; FLAC at 16 kHz.

    The draw depends on the seed and the id of a row alone.
    """

    columns = {**ABOUT, "text": "string", "voice": "string", **ERROR}

    def __init__(self, job: Job, out: Folder):
        from dlm.tts import CommandTTS, VitsTTS

        self.engines = [CommandTTS(tuple(job.voices), workers=1)] if job.voices else []
        if job.model:
            self.engines.append(VitsTTS(job.model, device=_device(job.device)))
        self.families: dict[str, list] = {}
        for engine in self.engines:
            for voice in engine.voices():
                self.families.setdefault(voice.family, []).append((engine, voice))
        if not self.families:
            raise ValueError(
                f"none of the voices {job.voices} is installed: install espeak-ng or flite, or give model="
            )
        self.out, self.job = out, job

    def __call__(self, rows: list[Row]) -> list[Row]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Row:
        from asr.audio.augment import seeded
        from asr.audio.io import save
        from dlm.tts import Utterance

        result = {**about(row), "text": row.get("text")}
        if "text" not in row:
            return {**result, "error": f"{row['id']}: the row has no text to speak"}
        rng = seeded(self.job.seed, key(row["id"]))
        family = list(self.families.values())[rng.integers(len(self.families))]
        engine, voice = family[rng.integers(len(family))]
        rate, pitch = (rng.uniform(*limits) for limits in (self.job.rate, self.job.pitch))
        result["voice"] = str(voice)
        wave = engine.synthesize([Utterance(row["text"], voice, rate, pitch)])[0]
        if wave is None:
            return {**result, "error": f"{row['id']}: {voice} could not say {row['text'][:60]!r}"}
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder, "speech.flac"), wave)
            self.out.write_file(audio_name(row["id"]), Path(folder, "speech.flac"))
        return {**result, "path": audio_name(row["id"]), "seconds": len(wave) / SAMPLING_RATE}


def audio_name(id: str) -> str:
    """Where the sound of an id goes; other ids go elsewhere, and none leaves the folder."""
    return f"audio/{quote(id, safe=' ,+=@()')}.flac"


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


WORKS = {
    "transcribe": ("recipes.corpus.works", "Transcribe"),
    "enhance": ("recipes.corpus.works", "Enhance"),
    "score": ("recipes.corpus.works", "Score"),
    "synthesise": ("recipes.corpus.works", "Synthesise"),
}


def work_named(name: str) -> type[Work]:
    """Raises ValueError: there is no such work."""
    if name not in WORKS:
        raise ValueError(f"there is no work {name!r}; choose one of {', '.join(WORKS)}")
    module, attribute = WORKS[name]
    return getattr(import_module(module), attribute)
