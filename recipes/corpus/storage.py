"""Folders at any fsspec address: a local path, s3://bucket/folder, gs://..., http://... (reading), memory://...

Keys and endpoints are fsspec's own configuration (FSSPEC_S3_KEY and the like, or ~/.config/fsspec).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec

WRITES_WHOLE = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "memory")  # an object appears complete
TEMPORARY = ".tmp"


def split_address(address: str | os.PathLike) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system and the path of an address.

    Raises:
        ValueError: the address names a file system that is unknown or not installed.
    """
    try:
        return fsspec.core.url_to_fs(os.fspath(address))
    except (ValueError, ImportError) as error:
        raise ValueError(f"{address}: {error}") from None


def is_remote(address: str) -> bool:
    return "://" in address and not address.startswith(("file://", "local://"))


def join(folder: str, name: str) -> str:
    """A name relative to a folder's address; absolute names and addresses stay what they are."""
    if "://" in name or os.path.isabs(name):
        return name
    return f"{folder.rstrip('/')}/{name}" if folder else name


def parent(address: str) -> str:
    """The folder of an address."""
    return address.rstrip("/").rpartition("/")[0] if "/" in address.rstrip("/") else ""


class Folder:
    """The files of one folder, named relative to it."""

    def __init__(self, address: str | os.PathLike):
        self.address = os.fspath(address)
        self.fs, self.root = split_address(self.address)

    def path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.path(name))

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        return self.fs.cat_file(self.path(name), start, stop)

    def open(self, name: str):
        return self.fs.open(self.path(name), "rb")

    def write(self, name: str, content: bytes) -> None:
        """Write a file that appears whole or not at all, whatever is killed meanwhile."""
        path = self.path(name)
        self.fs.makedirs(parent(path), exist_ok=True)
        if self._writes_whole():
            self.fs.pipe_file(path, content)
            return
        temporary = f"{parent(path)}/.{path.rpartition('/')[2]}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
        self.fs.pipe_file(temporary, content)
        self._rename(temporary, path)

    def write_file(self, name: str, local: Path) -> None:
        """`write` of a local file, which is not read into memory at once."""
        path = self.path(name)
        self.fs.makedirs(parent(path), exist_ok=True)
        if self._writes_whole():
            self.fs.put_file(str(local), path)
            return
        temporary = f"{parent(path)}/.{path.rpartition('/')[2]}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
        self.fs.put_file(str(local), temporary)
        self._rename(temporary, path)

    def remove(self, name: str) -> None:
        self.fs.rm_file(self.path(name))

    def names(self, start: str = "", end: str = "") -> list[str]:
        """Sorted names of the files right in the folder; none where there is no folder."""
        try:
            entries = self.fs.ls(self.root, detail=True, refresh=True)
        except FileNotFoundError:
            return []
        names = (e["name"].rstrip("/").rpartition("/")[2] for e in entries if e["type"] == "file")
        return sorted(n for n in names if n.startswith(start) and n.endswith(end))

    def clear_temporary(self) -> None:
        """Remove what a killed process left half written."""
        for name in self.names(".", TEMPORARY):
            self.remove(name)

    def _writes_whole(self) -> bool:
        protocol = self.fs.protocol
        return bool({protocol} & set(WRITES_WHOLE) if isinstance(protocol, str) else set(protocol) & set(WRITES_WHOLE))

    def _rename(self, temporary: str, path: str) -> None:
        if "file" in self.fs.protocol or "local" in self.fs.protocol:
            os.replace(temporary, path)
        else:
            self.fs.mv(temporary, path)


def walk(address: str) -> Iterator[dict]:
    """Entries (name: path in its file system, size in bytes) of all files under a folder, sorted folder by folder.

    Names that begin with a dot are left out, folders and files: they are hidden, or what other systems leave behind.
    """
    fs, root = split_address(address)
    yield from _walk(fs, root)


def _walk(fs: fsspec.AbstractFileSystem, root: str) -> Iterator[dict]:
    for entry in sorted(fs.ls(root, detail=True), key=lambda e: e["name"]):
        if entry["name"].rstrip("/") == root.rstrip("/"):
            continue  # object stores list a marker of the folder itself
        if entry["name"].rstrip("/").rpartition("/")[2].startswith("."):
            continue
        if entry["type"] == "directory":
            yield from _walk(fs, entry["name"])
        else:
            yield entry
