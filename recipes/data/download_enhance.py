"""Download VoiceBank-DEMAND (Valentini-Botinhao 2017, CC BY 4.0) and unpack it.

    python -m recipes.download_enhance data/VoiceBank-DEMAND

Writes the folders clean_trainset_28spk_wav, noisy_trainset_28spk_wav, clean_testset_wav and noisy_testset_wav with
48 kHz WAV files and log_testset.txt with the noise and ratio of each test file. Parts that are there already
are not fetched again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from asr.console.program import program

SOURCE = "https://datashare.ed.ac.uk/bitstream/handle/10283/2791"
FOLDERS = (
    "clean_testset_wav",
    "noisy_testset_wav",
    "clean_trainset_28spk_wav",
    "noisy_trainset_28spk_wav",
)
LOGS = "logfiles"  # holds log_testset.txt


def download(folder: Path, source: str = SOURCE) -> None:
    """Fetch the missing parts of the corpus; a part appears only when it is whole.

    Raises:
        OSError: no network, or the server refuses.
        zipfile.BadZipFile: what came is no archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        if not (folder / name).is_dir():
            _fetch(f"{source}/{name}.zip", folder, name)
    if not (folder / "log_testset.txt").exists():
        _fetch(f"{source}/{LOGS}.zip", folder, "log_testset.txt")


def _fetch(url: str, folder: Path, wanted: str) -> None:
    """Unpack an archive beside its destination, then move the one entry that is wanted."""
    from tqdm import tqdm

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archive = Path(scratch) / "archive.zip"
        with urllib.request.urlopen(url) as response, open(archive, "wb") as file:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm.wrapattr(response, "read", total=size, desc=wanted, file=sys.stderr) as counted:
                shutil.copyfileobj(counted, file)
        with zipfile.ZipFile(archive) as content:
            content.extractall(Path(scratch) / "content")
        found = next((Path(scratch) / "content").rglob(wanted), None)
        if found is None:
            raise FileNotFoundError(f"{url} holds no {wanted}")
        found.rename(folder / wanted)


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.download_enhance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", default=SOURCE, help="where the archives lie")
    args = parser.parse_args(argv)
    try:
        download(args.folder, args.source)
    except (OSError, zipfile.BadZipFile) as error:
        print(f"download failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
