"""Counters of a server in the text format of Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEASURED = ("/v1/", "/health", "/metrics")  # everything else is the page
SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """All counters; an object of its own, so that two servers can live in one process."""

    def __init__(self):
        self.registry = CollectorRegistry()
        common = {"registry": self.registry}
        self.requests = Counter("asr_requests", "Requests answered.", ("path", "status"), **common)
        self.latency = Histogram("asr_request_seconds", "From request to end of answer.", ("path",), buckets=SECONDS,
                                 **common)
        self.audio = Counter("asr_audio_seconds", "Speech recognised, live streams included.", **common)
        self.batches = Histogram("asr_batch_segments", "Segments recognised at once.", buckets=(1, 2, 4, 8, 16, 32),
                                 **common)
        self.inside = Gauge("asr_requests_inside", "Recordings being worked on.", **common)
        self.live = Gauge("asr_live_streams", "Live streams being heard.", **common)

    def on_batch(self, segments: int, seconds: float) -> None:
        self.batches.observe(segments)
        self.audio.inc(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class MeasuringMiddleware:
    """Counts and times every answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 499, time.monotonic()  # 499: the client left before an answer began

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"]
        try:
            await self.app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unknown") if path.startswith(MEASURED) else "page"
            self.metrics.requests.labels(route, status).inc()
            self.metrics.latency.labels(route).observe(time.monotonic() - started)
