"""POST /v1/audio/transcriptions and /v1/audio/translations, as OpenAI's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import FormData

from asr.output.transcript import Segment, Transcript
from asr.recogniser import DecodeOptions
from asr.server import formats
from asr.server.errors import ApiError, as_api_error
from asr.server.services import Services
from asr.server.uploads import received, while_connected
from asr.server.worker import Job

LISTS = ("timestamp_granularities",)  # fields sent as NAME[], once for each value


class TranscriptionForm(BaseModel):
    """The fields beside the file."""

    model: str = ""
    language: str = ""
    prompt: str = ""
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    timestamp_granularities: list[Literal["word", "segment"]] = []
    stream: bool = False


SCHEMA = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"},
                   **TranscriptionForm.model_json_schema()["properties"]},
}}}}}  # fmt: skip


class OwningStream(StreamingResponse):
    """A stream that closes what it needs when it ends, however that comes."""

    def __init__(self, content, owned: AsyncExitStack, **kwargs):
        super().__init__(content, **kwargs)
        self.owned = owned

    async def __call__(self, scope, receive, send) -> None:
        async with self.owned:
            await super().__call__(scope, receive, send)


def router(services: Services) -> APIRouter:
    """Both routes."""
    routes = APIRouter()

    @routes.post("/v1/audio/transcriptions", openapi_extra=SCHEMA)
    async def transcriptions(request: Request) -> Response:
        """Text of a recording, in the language spoken."""
        return await _answer(request, services)

    @routes.post("/v1/audio/translations", openapi_extra=SCHEMA)
    async def translations(request: Request) -> Response:
        """English text of a recording in another language, where the model can."""
        return await _answer(request, services, task="translate")

    return routes


async def _answer(request: Request, services: Services, task: str = "transcribe") -> Response:
    settings = services.settings
    async with AsyncExitStack() as owned:
        upload = await owned.enter_async_context(received(request, settings, services.admission))
        form = parse(upload.form)
        options, ignored = check(form, services, task)
        queued = services.worker.transcribe(upload.path, upload.name, settings.max_seconds, options)
        job = await owned.enter_async_context(queued)
        if form.stream:
            segments = aiter(job)
            first = await while_connected(request, anext(segments, None))  # errors so far still have their own status
            events = _events(job, segments, first)
            response = OwningStream(events, owned.pop_all(), media_type="text/event-stream")
        else:
            transcript = await while_connected(request, _whole(job))
            only = services.languages[0] if len(services.languages) == 1 else "unknown"
            language, wanted = form.language or only, form.timestamp_granularities
            response = formats.as_response(transcript, form.response_format, wanted, task, language)
    if ignored:
        response.headers["X-Ignored"] = ", ".join(ignored)
    return response


def parse(form: FormData) -> TranscriptionForm:
    """The fields of a form. Raises ApiError 400 that names the field and the rule."""
    values = {key: value for key, value in form.items() if key in TranscriptionForm.model_fields}
    for name in LISTS:
        values[name] = form.getlist(f"{name}[]") + form.getlist(name)
    try:
        return TranscriptionForm.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field, given = str(first["loc"][0]), str(first["input"])[:50]
        raise ApiError(400, f"{field} is {given!r}: {first['msg']}", "invalid_value", field) from None


def check(form: TranscriptionForm, services: Services, task: str) -> tuple[DecodeOptions | None, list[str]]:
    """How to decode, and the fields that the model has no use for.

    Raises ApiError where the answer would not be what was asked for.
    """
    services.check_model(form.model, services.model)
    if form.stream and form.response_format not in ("json", "text"):
        raise ApiError(400, f"response_format is {form.response_format!r}; a stream has json or text",
                       "invalid_value", "response_format")
    translates = {"task": task} if task == "translate" else {}
    options, useless = services.options(**translates, language=form.language, initial_prompt=form.prompt,
                                        temperature=form.temperature)  # fmt: skip
    if "task" in useless:
        raise ApiError(400, f"model {services.model!r} transcribes but does not translate", "unsupported_task", "model")
    if "language" in useless:
        known = f"it knows {', '.join(services.languages)}" if services.languages else "it cannot be told a language"
        raise ApiError(400, f"language is {form.language!r}, which is not for model {services.model!r}; {known}",
                       "unsupported_language", "language")
    ignored = ["prompt" if name == "initial_prompt" else name for name in useless]
    if form.timestamp_granularities and form.response_format != "verbose_json":
        ignored.append("timestamp_granularities")
    return options, ignored


async def _whole(job: Job) -> Transcript:
    return job.transcript([segment async for segment in job])


async def _events(job: Job, segments: AsyncIterator[Segment], first: Segment | None) -> AsyncIterator[str]:
    """The stream: a delta for each segment, then the whole; an error where the recording ends in one."""
    ready: list[Segment] = []
    segment = first
    try:
        while segment is not None:
            yield formats.delta(segment, is_first=not ready)
            ready.append(segment)
            segment = await anext(segments, None)
        yield formats.done(job.transcript(ready))
    except Exception as error:
        yield formats.event(as_api_error(error).body())
