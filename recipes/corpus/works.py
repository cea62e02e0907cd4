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
from recipes.corpus.pack import Pack
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

        self.transcriber = Transcriber.from_pretrained(
            job.model, job.device, options=DecodeOptions(decoder=job.decoder), batch_size=job.batch_size
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


class Label(Transcribe):
    """Texts to train on, by a recogniser in the place of a writer; what it is not sure of is an error.

    The rows can be packed (`pack`) or listed in a training table as they are.
    """

    columns = {**ABOUT, "text": "string", "confidence": "float64", **ERROR}

    def __init__(self, job: Job, out: Folder):
        super().__init__(job, out)
        self.least = job.least_confidence

    def __call__(self, rows: list[Row]) -> list[Row]:
        results = super().__call__(rows)
        for result in results:
            sure = result.get("confidence")
            if not result["error"] and sure is None:
                result["error"] = f"{result['id']}: nothing was heard"
            elif not result["error"] and sure < self.least:
                result["error"] = f"{result['id']}: confidence {sure:.2f} is below {self.least} ({result['text'][:60]})"
        return results


class Enhance:
    """Clean recordings in OUT/audio, of the same rate, channels and length; FLAC. `source` is where they came from."""

    columns = {**ABOUT, "source": "string", **ERROR}

    def __init__(self, job: Job, out: Folder):
        from enhance import Denoiser

        device = _device(job.device)
        self.denoiser = Denoiser.from_pretrained(job.model, attenuation_limit=job.attenuation_limit, device=device)
        self.sources, self.out = Sources(), out

    def __call__(self, rows: list[Row]) -> list[Row]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Row:
        name, heard = audio_name(row["id"]), []
        result = {**about(row), "source": row.get("path")}
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "clean.flac")
            try:
                self.denoiser.denoise_file(self.sources.open(row), target, heard.append)
            except AudioError as error:
                return {**result, "error": str(error)}
            self.out.write_file(name, target)
        return {**result, "path": name, "start": None, "seconds": sum(heard)}


class Synthesise:
    """Texts spoken in drawn voices into OUT/audio; FLAC at 16 kHz.

    The draw of a voice and its delivery depends on the seed and the id of a row alone.
    """

    columns = {**ABOUT, "text": "string", "voice": "string", **ERROR}

    def __init__(self, job: Job, out: Folder):
        from dlm.tts import Cast, engines

        self.cast = Cast(engines(job.voices, _device(job.device)))
        self.out, self.seed = out, job.seed

    def __call__(self, rows: list[Row]) -> list[Row]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Row:
        from asr.audio.augment import seeded
        from asr.audio.io import save

        result = {**about(row), "text": row.get("text")}
        if "text" not in row:
            return {**result, "error": f"{row['id']}: the row has no text to speak"}
        utterance, wave, _ = self.cast.speak(row["text"], seeded(self.seed, key(row["id"])))
        result["voice"] = str(utterance.voice)
        if wave is None:
            return {**result, "error": f"{row['id']}: {utterance.voice} could not say {row['text'][:60]!r}"}
        name = audio_name(row["id"])
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder, "speech.flac"), wave)
            self.out.write_file(name, Path(folder, "speech.flac"))
        return {**result, "path": name, "seconds": len(wave) / SAMPLING_RATE}


def audio_name(id: str) -> str:
    """Where the sound of an id goes; other ids go elsewhere, and none leaves the folder."""
    return f"audio/{quote(id, safe=' ,+=@()')}.flac"


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


WORKS = {
    "transcribe": Transcribe,
    "enhance": Enhance,
    "score": Score,
    "synthesise": Synthesise,
    "label": Label,
    "pack": Pack,
}


def work_named(name: str) -> type[Work]:
    """One of WORKS, or a class of your own as module:Class.

    Raises:
        ValueError: there is no such work.
    """
    module, _, attribute = name.partition(":")
    if attribute:
        return getattr(import_module(module), attribute)
    if name not in WORKS:
        raise ValueError(f"there is no work {name!r}; choose one of {', '.join(WORKS)}, or module:Class of your own")
    return WORKS[name]
