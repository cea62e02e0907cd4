"""Works that write down what recordings say: transcribe and score."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from asr.audio.errors import AudioError
from asr.audio.report import told
from recipes.corpus.job import Job
from recipes.corpus.parts import Row
from recipes.corpus.sources import Named, Sources
from recipes.corpus.storage import Folder
from recipes.corpus.works import ABOUT, ERROR, about

SAID = {"text": "string", "confidence": "float64", "segments": "segments", "words": "words"}
COUNTS = ("word_errors", "reference_words", "normalised_word_errors", "normalised_reference_words")


class Transcribe:
    """Texts, word times and confidence of recordings of any length, by `asr.Transcriber`.

    Of a damaged recording there is the text of the rest, and `missing` says what is not there.
    """

    columns = {**ABOUT, "reference": "string", **SAID, "missing": "string", **ERROR}

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
        "missing": told(transcript.missing) if transcript.missing else None,
        "confidence": float(np.mean([word.confidence for word in words])) if words else None,
        "segments": [{"start": s.start, "end": s.end, "text": s.text} for s in transcript.segments],
        "words": [{"start": w.start, "end": w.end, "text": w.text, "confidence": w.confidence} for w in words],
    }


class Score(Transcribe):
    """Texts, and the word errors of each recording against the text of its row, as said and normalised."""

    columns = {**Transcribe.columns, **dict.fromkeys(COUNTS, "int64")}

    def __call__(self, rows: list[Row]) -> list[Row]:
        results = super().__call__(rows)
        for result in results:
            if result["reference"] is None and not result["error"]:
                result["error"] = f"{result['id']}: the row has no text to score against"
            elif not result["error"]:
                result.update(self._counts(result["reference"], result["text"]))
        return results

    def _counts(self, reference: str, hypothesis: str) -> dict[str, int]:
        from asr.score import error_counts, normalised

        raw = error_counts([reference], [hypothesis])
        plain = error_counts(normalised([reference]), normalised([hypothesis]))
        values = (raw.errors, raw.reference, plain.errors, plain.reference)
        return {name: int(value[0]) for name, value in zip(COUNTS, values, strict=True)}
