"""Works that make sound: enhance and synthesise."""

from __future__ import annotations

import tempfile
from pathlib import Path
from urllib.parse import quote

from asr.audio.errors import AudioError
from recipes.corpus.job import Job
from recipes.corpus.parts import Row, key
from recipes.corpus.sources import SAMPLING_RATE, Sources
from recipes.corpus.storage import Folder
from recipes.corpus.works import ABOUT, ERROR, about, device_named


class Enhance:
    """Clean recordings in OUT/audio, of the same rate, channels and length; FLAC. `source` is where they came from."""

    columns = {**ABOUT, "source": "string", **ERROR}

    def __init__(self, job: Job, out: Folder):
        from enhance import Denoiser

        device = device_named(job.device)
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

        self.cast = Cast(engines(job.voices, device_named(job.device)))
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
