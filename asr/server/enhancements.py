"""POST /v1/audio/enhancements: a recording in, the cleaned recording out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from asr.server.errors import ApiError
from asr.server.services import Services
from asr.server.uploads import received, while_connected

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac"}
CHUNK = 1 << 18  # bytes
SCHEMA = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}, "model": {"type": "string"},
                   "response_format": {"type": "string", "enum": list(MEDIA_TYPES), "default": "wav"}},
}}}}}  # fmt: skip


def router(services: Services) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/audio/enhancements", openapi_extra=SCHEMA)
    async def enhancements(request: Request) -> Response:
        """The recording with less noise, at the same rate, with the same channels and length."""
        if services.enhancing is None:
            raise ApiError(404, "no enhancement model is loaded; start the server without --enhance_model none",
                           "model_not_found", "model")
        async with received(request, services.settings, services.admission) as upload:
            services.check_model(str(upload.form.get("model", "")), services.enhancement_model)
            wanted = str(upload.form.get("response_format", "wav"))
            if wanted not in MEDIA_TYPES:
                raise ApiError(400, f"response_format is {wanted!r}; choose one of {', '.join(MEDIA_TYPES)}",
                               "invalid_value", "response_format")
            target = upload.folder / f"enhanced.{wanted}"
            limit = services.settings.max_seconds
            await while_connected(request, services.enhancing.enhance(upload.path, target, upload.name, limit))
            file = open(target, "rb")  # stays readable when its folder goes
        stem = upload.name.rsplit(".", 1)[0]
        headers = {"Content-Length": str(os.fstat(file.fileno()).st_size),
                   "Content-Disposition": f"attachment; filename*=UTF-8''{quote(stem)}.{wanted}"}
        return StreamingResponse(_chunks(file), headers=headers, media_type=MEDIA_TYPES[wanted])

    return routes


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while data := file.read(CHUNK):
            yield data
