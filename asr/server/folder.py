"""A temporary folder that does not outlive its server, however that ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "dspeech-serve-"


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for one server, and for all temporary files of the process; what dead servers left is removed.

    A server holds a lock on its folder. The system takes the lock back whatever happens to the process, so a folder
    without one belongs to nobody. (systemd-tmpfiles leaves locked folders alone too, however old they are.)

    Args:
        parent: where it is made; by default the system's folder for temporary files.
    """
    parent = Path(parent or tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent)
    folder, lock = _locked_folder(parent)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of servers that are no more."""
    for folder in parent.glob(f"{PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
            continue
        with _opened(folder) as lock:
            if _is_taken(lock):
                shutil.rmtree(folder, ignore_errors=True)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = os.open(folder, os.O_RDONLY)
        if _is_taken(lock) and folder.exists():  # else another server that starts has taken it for abandoned
            return folder, lock
        os.close(lock)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_taken(descriptor: int) -> bool:
    """Take the lock of an open folder, if it is free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
