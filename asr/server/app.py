"""The application: routes, errors, the key, metrics and the page, put together."""

from __future__ import annotations

from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from asr.server import enhancements, errors, live, transcriptions
from asr.server.metrics import MeasuringMiddleware
from asr.server.security import KeyMiddleware
from asr.server.services import Services


def create_app(services: Services, with_page: bool = True) -> FastAPI:
    """The server's ASGI application; it closes the services when it ends.

    Raises:
        ImportError: the page is wanted and gradio is not installed.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        yield
        services.close()

    app = FastAPI(title="Denoising speech", docs_url=None, redoc_url=None, lifespan=lifespan)  # their pages need a CDN
    errors.install(app)
    app.include_router(transcriptions.router(services))
    app.include_router(enhancements.router(services))
    app.include_router(live.router(services))
    _add_operations(app, services)
    if services.settings.api_key:
        app.add_middleware(KeyMiddleware, key=services.settings.api_key)
    app.add_middleware(MeasuringMiddleware, metrics=services.metrics)
    if with_page:
        from asr.server.page import mount

        app = mount(app, services)
    return app


def _add_operations(app: FastAPI, services: Services) -> None:
    """What monitoring and clients ask before they work."""

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [_model(name, services) for name in services.models]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict:
        if name not in services.models:
            raise errors.ApiError(404, f"model {name!r} is not loaded; this server has {', '.join(services.models)}",
                                  "model_not_found", "model")
        return _model(name, services)

    @app.get("/health")
    async def health() -> Response:
        """200 while recordings can be recognised, 503 when not."""
        alive = services.worker.is_alive
        return JSONResponse({"status": "ok" if alive else "the model's thread has ended"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        services.metrics.inside.set(services.admission.inside)
        services.metrics.live.set(services.live_streams)
        return PlainTextResponse(services.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _model(name: str, services: Services) -> dict:
    return {"id": name, "object": "model", "created": services.created, "owned_by": "local"}
