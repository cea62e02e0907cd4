"""Uploads: from the body of a request to a file in a folder that goes away with the request."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect

from asr.server.admission import Admission
from asr.server.errors import ApiError, ClientGone
from asr.server.settings import IDLE, MEGABYTE, Settings

LINGER = 5.0  # seconds that a refused client may go on sending


@dataclass(frozen=True)
class Upload:
    """A recording that has arrived: `path` in the folder of its request, `name` as the client calls it."""

    path: Path
    name: str
    form: FormData

    @property
    def folder(self) -> Path:
        return self.path.parent


@asynccontextmanager
async def received(request: Request, settings: Settings, admission: Admission) -> AsyncIterator[Upload]:
    """The upload of a multipart request; its place in the server and its folder last as long as the context.

    Raises:
        ApiError: 400 not a form with one file, 408 too slow, 413 too large, 415 compressed, 429 too many at once.
        ClientGone: the client gave up.
    """
    body = _Body(request, settings)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(admission.enter())
            form = await body.form()
        except ApiError:
            await body.discard()
            raise
        stack.callback(_close, form)
        folder = Path(tempfile.mkdtemp(prefix="request-", dir=settings.folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield await asyncio.to_thread(_stored, form, folder)


async def while_connected(request: Request, work: Awaitable):
    """The result of the work, which is cancelled when the client goes away.

    Raises:
        ClientGone: it did.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for other in (task, gone):
            other.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Body:
    """The bytes of a request under the limits of the server."""

    def __init__(self, request: Request, settings: Settings):
        self.request, self.settings, self.bytes = request, settings, 0
        self.max_bytes = settings.max_bytes + MEGABYTE  # the form around the file

    async def form(self) -> FormData:
        self._check_headers()
        request = Request(self.request.scope, self._receive)
        try:
            async with asyncio.timeout(self.settings.upload_seconds):
                return await request.form(max_files=1, max_fields=32, max_part_size=64 * 1024)
        except TimeoutError:
            raise ApiError(408, f"the upload took more than {self.settings.upload_seconds:g} s or stood still for "
                                f"{IDLE:g} s", "upload_timeout") from None
        except ClientDisconnect:
            raise ClientGone from None

    async def discard(self) -> None:
        """Read and forget what a refused client still sends: its answer is lost if the connection closes over it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await self.request.receive()).get("more_body"):
                    pass

    def _check_headers(self) -> None:
        headers = self.request.headers
        if not headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(400, "the request is no form: send multipart/form-data with the recording as 'file'",
                           "invalid_form", "file")
        if headers.get("content-encoding", "identity") != "identity":
            raise ApiError(415, "compressed requests are not read: send the form as it is", "compressed")
        if int(headers.get("content-length", 0)) > self.max_bytes:
            raise self._too_large()

    async def _receive(self) -> dict:
        async with asyncio.timeout(IDLE):
            message = await self.request.receive()
        self.bytes += len(message.get("body", b""))
        if self.bytes > self.max_bytes:
            raise self._too_large()
        return message

    def _too_large(self) -> ApiError:
        limit = self.settings.max_megabytes
        return ApiError(413, f"the upload is larger than {limit:g} MB, the limit of this server: send it in parts or "
                             "in a format that compresses", "upload_too_large", "file")


def _stored(form: FormData, folder: Path) -> Upload:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise ApiError(400, "the form has no whole 'file': send the recording under that name", "missing_file", "file")
    name = _display_name(upload.filename)
    path = folder / "recording"  # never the client's name
    with open(path, "wb") as file:
        shutil.copyfileobj(upload.file, file)
    return Upload(path, name, form)


def _display_name(filename: str | None) -> str:
    """The client's name of the file, fit for a message: no folders, nothing that does not print, not long."""
    name = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c for c in name if c.isprintable())[-100:] or "upload"


def _close(form: FormData) -> None:
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            value.file.close()


