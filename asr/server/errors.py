"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from asr.audio.errors import AudioError
from asr.audio.io import duration

log = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: one sentence with the value, the rule and the remedy.
        code: short name for programs.
        param: the field of the form that is wrong.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    def body(self) -> dict:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse(self.body(), self.status, headers)


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class TooLong(ApiError):
    """A recording over the limit of its duration."""

    def __init__(self, max_seconds: float):
        super().__init__(413, f"the recording is longer than {max_seconds / 60:g} minutes, the limit of this server: "
                              "send it in parts", "audio_too_long", "file")

    @classmethod
    def check(cls, source: Path, max_seconds: float) -> None:
        """Raise at once for what its header says is far over the limit; by less, a header may be wrong."""
        if (duration(source) or 0.0) > 2 * max_seconds:
            raise cls(max_seconds)


def as_api_error(error: BaseException) -> ApiError:
    """Any error of the work as what the client is told; what is our fault is logged and not told."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AudioError):
        return ApiError(400, str(error), "invalid_audio", "file")
    log.error("request failed", exc_info=error)
    return ApiError(500, "the server failed at this request; its log says why", "internal_error")


def install(app: FastAPI) -> None:
    """Let the app answer with these errors, those of the framework included."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)  # read by nobody but the metrics

    @app.exception_handler(ApiError)
    @app.exception_handler(AudioError)
    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()
