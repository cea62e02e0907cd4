"""LibriSpeech: fetched, checked, unpacked and listed (`python -m recipes.prepare librispeech FOLDER`).

After an interruption an archive goes on where it stopped, a part that was unpacked in part is unpacked again, and
parts that are whole are left alone. Archives are checked against their SHA-256 sums (those that
torchaudio publishes) and tables against the number of utterances of each part.
"""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from pathlib import Path

SOURCE = "https://www.openslr.org/resources/12"
UTTERANCES = {
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
}
BLOCK = 1 << 20


def prepare(root: Path, part: str, source: str = SOURCE) -> Path:
    """The table of one part, after whatever was missing has been fetched and unpacked.

    Raises:
        OSError: no network, or the server refuses.
        ValueError: the archive or the number of utterances is not what it should be.
    """
    from recipes.data.corpora import prepare_librispeech

    table = root / f"{part}.tsv"
    if table.exists() and _rows(table) == UTTERANCES[part]:
        return table
    root.mkdir(parents=True, exist_ok=True)
    archive = root / f"{part}.tar.gz"
    fetch(f"{source}/{part}.tar.gz", archive, _checksum(part))
    # torchaudio takes a folder for whole when it is there; one without its table may be half unpacked.
    shutil.rmtree(root / "LibriSpeech" / part, ignore_errors=True)
    table.unlink(missing_ok=True)
    prepare_librispeech(root, [part])
    if _rows(table) != UTTERANCES[part]:
        raise ValueError(f"{table} has {_rows(table)} utterances, {part} has {UTTERANCES[part]}: delete {archive}")
    return table


def fetch(url: str, archive: Path, checksum: str) -> None:
    """Download an archive, from where an earlier attempt stopped; it takes its name once its sum is right.

    Raises:
        ValueError: the sum is wrong; what was fetched is deleted.
    """
    from tqdm import tqdm

    if archive.exists():
        return
    partial = archive.with_name(archive.name + ".part")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is left to fetch
            raise
        response = None
    if response is not None:
        goes_on = response.status == 206  # otherwise the server sends it from the beginning
        size = int(response.headers.get("Content-Length") or 0) + (have if goes_on else 0)
        with response, open(partial, "ab" if goes_on else "wb") as file:
            bar = tqdm(total=size or None, initial=file.tell(), unit="B", unit_scale=True, desc=archive.name)
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
            bar.close()
    if checksum != sha256(partial):
        partial.unlink()
        raise ValueError(f"{url}: the archive is damaged (its SHA-256 sum is wrong); run the same command again")
    partial.rename(archive)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(part: str) -> str:
    from torchaudio.datasets import librispeech

    return next(sum for url, sum in librispeech._CHECKSUMS.items() if url.endswith(f"/{part}.tar.gz"))


def _rows(table: Path) -> int:
    with open(table, encoding="utf-8-sig") as file:
        return sum(1 for line in file if line.strip()) - 1
