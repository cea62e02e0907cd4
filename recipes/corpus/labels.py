"""Texts to train on: by our recogniser where it is sure of them, or by teachers where they agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asr.audio.errors import AudioError
from recipes.corpus.job import Job
from recipes.corpus.parts import Row
from recipes.corpus.recognition import Transcribe
from recipes.corpus.sources import SAMPLING_RATE, Sources
from recipes.corpus.storage import Folder
from recipes.corpus.works import ABOUT, ERROR, about, device_named


class Label(Transcribe):
    """What our recogniser hears; damaged rows and those of which it is less sure than `least_confidence` are errors."""

    columns = {**ABOUT, "text": "string", "confidence": "float64", **ERROR}

    def __init__(self, job: Job, out: Folder):
        super().__init__(job, out)
        self.least = job.least_confidence

    def __call__(self, rows: list[Row]) -> list[Row]:
        results = super().__call__(rows)
        for result in results:
            sure = result.get("confidence")
            if not result["error"] and result["missing"]:
                result["error"] = f"{result['id']}: {result['missing']}"
            elif not result["error"] and sure is None:
                result["error"] = f"{result['id']}: nothing was heard"
            elif not result["error"] and sure < self.least:
                result["error"] = f"{result['id']}: confidence {sure:.2f} is below {self.least} ({result['text'][:60]})"
        return results


class AgreedLabel:
    """What the first of several teachers hears where another one hears the same, as `recipes.prepare label` decides.

    A row that has its words already gets case and punctuation from the first teacher, its words stay.
    """

    columns = {**ABOUT, "text": "string", "fate": "string", **ERROR}

    def __init__(self, job: Job, out: Folder):
        from recipes.data.labellers import load_labeller

        device = device_named(job.device)
        self.teachers = [load_labeller(name, device, batch=job.batch_size) for name in job.teachers]
        self.sources, self.threshold = Sources(), job.threshold

    def __call__(self, rows: list[Row]) -> list[Row]:
        from recipes.data.label import verdict
        from recipes.data.recording_rows import Row as Recording

        results = [about(row) for row in rows]
        recordings, waves = {}, {}
        for row, result in zip(rows, results, strict=True):
            try:
                wave = waves[row["id"]] = self.sources.wave(row)
            except AudioError as error:
                result["error"] = str(error)
                continue
            result["seconds"] = len(wave) / SAMPLING_RATE
            known = row.get("speaker", ""), "", result["seconds"], row.get("text", "")
            recordings[row["id"]] = Recording(row["id"], Path(row["path"]), *known)
        texts = self._texts(list(recordings.values()), waves)
        for result in results:
            if recording := recordings.get(result["id"]):
                heard = texts.get(recording.id, [None])
                result["fate"], result["text"] = verdict(recording, heard, self.threshold)
                if not result["text"]:
                    result["error"] = f"{recording.id}: {result['fate']}"
        return results

    def _texts(self, recordings: list, waves: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """What each teacher hears. The others are asked where there is no text; known texts help the first."""
        from recipes.data.label import LONGEST, SHORTEST, wants_label

        asked = [r for r in recordings if wants_label(r) and SHORTEST <= r.seconds <= LONGEST]
        texts: dict[str, list[str]] = {recording.id: [] for recording in asked}
        for number, teacher in enumerate(self.teachers):
            for known in (True, False) if number == 0 else (False,):
                chosen = [recording for recording in asked if bool(recording.text) == known]
                references = [recording.text for recording in chosen] if known else None
                said = teacher.transcribe([waves[r.id] for r in chosen], references) if chosen else []
                for recording, text in zip(chosen, said, strict=True):
                    texts[recording.id].append(" ".join(text.split()))
        return texts
