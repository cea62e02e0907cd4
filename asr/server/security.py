"""The API key: who does not bring it gets no further."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from asr.server.errors import ApiError

GUARDED = ("/v1/", "/metrics", "/openapi.json")  # the page asks for the key itself; /health tells nothing
UNAUTHORISED = 4401  # close code of a WebSocket


def is_key(text: str, key: str) -> bool:
    """Whether the text is the key, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(text.encode(), key.encode())


class KeyMiddleware:
    """Lets requests pass with `Authorization: Bearer KEY`; browsers' WebSockets may say `?api_key=KEY` instead."""

    def __init__(self, app: ASGIApp, key: str):
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not scope["path"].startswith(GUARDED) or self._is_allowed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": UNAUTHORISED, "reason": "wrong or missing API key"})
        else:
            error = ApiError(401, "wrong or missing API key: send it as 'Authorization: Bearer KEY'", "invalid_api_key")
            await error.response()(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        if given.lower().startswith("bearer "):
            return is_key(given[7:].strip(), self.key)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        return scope["type"] == "websocket" and is_key(query.get("api_key", [""])[0], self.key)
