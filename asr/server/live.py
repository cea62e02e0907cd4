"""WebSocket /v1/audio/live: samples in, text that settles out.

    ws://127.0.0.1:8000/v1/audio/live?sample_rate=16000&channels=1

The client sends binary messages of little-endian 16-bit samples, of any length, and in the end the text message
{"type": "end"}. The server answers with JSON messages:

    {"type": "partial", "start", "end", "settled", "pending", "heard"}      words in `settled` do not change any more
    {"type": "final", "start", "end", "text", "words", "heard"}             the segment is over
    {"type": "done", "duration"}                                            after the end
    {"type": "error", "message", "code"}                                    then it closes the connection
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from asr.audio.errors import AudioError
from asr.live.pcm import PCMStream
from asr.live.stream import LONGEST, PAUSE, LiveEvent, LiveState, LiveTranscriber
from asr.server.errors import ApiError, as_api_error
from asr.server.services import Services

BACKLOG = 20.0  # seconds of audio taken in ahead of recognition; the rest waits with the sender
SILENT = 60.0  # seconds without a message after which a stream is given up
TRY_AGAIN, UNSUPPORTED, FAILED = 1013, 1003, 1011  # close codes, RFC 6455 and its registry


class _Inbox:
    """Samples that have come and are not heard yet."""

    def __init__(self, socket: WebSocket, pcm: PCMStream):
        self.socket, self.pcm = socket, pcm
        self.data, self.is_over = bytearray(), False
        self.limit = int(BACKLOG * pcm.sampling_rate * pcm.channels * 2)
        self.changed = asyncio.Condition()

    async def fill(self) -> None:
        """Take messages until the end of the stream."""
        try:
            while not self.is_over:
                async with self.changed:
                    await self.changed.wait_for(lambda: len(self.data) < self.limit)
                async with asyncio.timeout(SILENT):
                    message = await self.socket.receive()
                await self._take(message)
        finally:
            async with self.changed:
                self.is_over = True
                self.changed.notify_all()

    async def _take(self, message: dict) -> None:
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        async with self.changed:
            if message.get("bytes") is not None:
                self.data += message["bytes"]
            elif _kind(message.get("text")) == "end":
                self.is_over = True
            else:
                raise ApiError(400, 'a text message must be {"type": "end"}; samples are binary', "invalid_message")
            self.changed.notify_all()

    async def take(self) -> bytes | None:
        """All that has come; None at the end."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.data or self.is_over)
            data, self.data = bytes(self.data), bytearray()
            self.changed.notify_all()
            return data or None


def _kind(text: str | None) -> str | None:
    try:
        return json.loads(text or "").get("type")
    except (ValueError, AttributeError):
        return None


def router(services: Services) -> APIRouter:
    """The route."""
    routes = APIRouter()
    segmenter = replace(services.transcriber.segmenter, max_seconds=LONGEST, max_pause=PAUSE)
    live = LiveTranscriber(services.worker.recognise, segmenter)
    threads = ThreadPoolExecutor(max(1, services.settings.max_live), "live")

    @routes.websocket("/v1/audio/live")
    async def listen(socket: WebSocket) -> None:
        await socket.accept()
        try:
            pcm = PCMStream(*(_number(socket, *field) for field in (("sample_rate", 16_000), ("channels", 1))))
            if services.live_streams >= services.settings.max_live:
                raise ApiError(429, f"{services.live_streams} live streams are being heard, the limit of this server",
                               "server_busy")
            services.live_streams += 1
            try:
                await _converse(socket, pcm, live, threads)
            finally:
                services.live_streams -= 1
        except WebSocketDisconnect:
            return
        except Exception as error:
            await _refuse(socket, error)

    return routes


async def _converse(socket: WebSocket, pcm: PCMStream, live: LiveTranscriber, threads: ThreadPoolExecutor) -> None:
    loop, inbox = asyncio.get_running_loop(), _Inbox(socket, pcm)
    filling = asyncio.create_task(inbox.fill())
    state = await loop.run_in_executor(threads, live.start)
    try:
        while (data := await inbox.take()) is not None:
            await _send(socket, await loop.run_in_executor(threads, live.push, state, pcm.push(data)))
        await filling  # raises what ended the stream other than its end
        await _send(socket, await loop.run_in_executor(threads, _end, live, state, pcm))
        await socket.send_json({"type": "done", "duration": round(state.seconds, 3)})
        await socket.close()
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


def _end(live: LiveTranscriber, state: LiveState, pcm: PCMStream) -> list[LiveEvent]:
    return live.push(state, pcm.push(b"", is_last=True)) + live.finish(state)


async def _send(socket: WebSocket, events: list[LiveEvent]) -> None:
    for event in events:
        segment = event.segment
        message = {"type": event.kind, "start": round(segment.start, 3), "end": round(segment.end, 3),
                   "heard": round(event.heard, 3)}
        if event.kind == "partial":
            message |= {"settled": event.settled_text, "pending": event.pending_text}
        else:
            words = [{"word": w.text, "start": round(w.start, 3), "end": round(w.end, 3)} for w in segment.words]
            message |= {"text": segment.text, "words": words}
        await socket.send_json(message)


def _number(socket: WebSocket, name: str, default: int) -> int:
    text = socket.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise AudioError(f"{name} is {text[:50]!r}; it must be a whole number")
    return int(text)


async def _refuse(socket: WebSocket, error: Exception) -> None:
    if isinstance(error, TimeoutError):
        error = ApiError(408, f"nothing came for {SILENT:g} s", "timeout")
    told = as_api_error(error)
    code = {429: TRY_AGAIN, 400: UNSUPPORTED}.get(told.status, FAILED)
    try:
        await socket.send_json({"type": "error", "message": str(told), "code": told.code})
        await socket.close(code)
    except (RuntimeError, WebSocketDisconnect):  # closed already
        return
