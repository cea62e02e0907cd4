"""Recordings and their texts packed into WebDataset shards, to train from object storage (recipes/data/shard_data.py).

A shard is a tar file of NUMBER.flac and NUMBER.json beside each other, at 16 kHz and one channel; the parts are the
index. WebDataset's format: https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path

from asr.audio.errors import AudioError
from recipes.corpus.job import Job
from recipes.corpus.parts import Row
from recipes.corpus.sources import SAMPLING_RATE, Sources
from recipes.corpus.storage import Folder


class Pack:
    """One shard for each part; rows without a text and recordings that cannot be used are left out as errors."""

    columns = {
        "id": "string",
        "shard": "string",
        "member": "int64",
        "seconds": "float64",
        "speaker": "string",
        "text": "string",
        "error": "string",
    }

    def __init__(self, job: Job, out: Folder):
        self.sources, self.out = Sources(), out

    def __call__(self, rows: list[Row]) -> list[Row]:
        digest = hashlib.blake2b("\n".join(row["id"] for row in rows).encode(), digest_size=8).hexdigest()
        shard, results, packed = f"shard-{digest}.tar", [], 0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, shard)
            with tarfile.open(path, "w") as tar:
                for row in rows:
                    result = {"id": row["id"], "speaker": row.get("speaker"), "text": row.get("text"), "error": None}
                    try:
                        seconds = self._add(tar, packed, row)
                    except AudioError as error:
                        result["error"] = str(error)
                    else:
                        result.update(shard=shard, member=packed, seconds=seconds)
                        packed += 1
                    results.append(result)
            self.out.write_file(shard, path)
        return results

    def _add(self, tar: tarfile.TarFile, number: int, row: Row) -> float:
        """Add a recording and what is said about it; returns its seconds."""
        import soundfile

        if not row.get("text"):
            raise AudioError(f"{row['id']}: the row has no text to learn from")
        wave, flac = self.sources.wave(row), io.BytesIO()
        soundfile.write(flac, wave, SAMPLING_RATE, format="FLAC")
        said = {name: row[name] for name in ("id", "text", "speaker") if name in row}
        _add(tar, f"{number:06d}.flac", flac.getvalue())
        _add(tar, f"{number:06d}.json", json.dumps(said, ensure_ascii=False).encode())
        return len(wave) / SAMPLING_RATE


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no times and owners, so that the same rows give the same bytes
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
