"""What the server counts of itself, for Prometheus: `GET /metrics`. No photo's name, no address."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from discriminator.results import Result

KIND = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
OTHER = "other"  # all paths that are none of the server's: their number is not the asker's to choose


class Counts:
    """The figures of one application; a registry of its own, so that two in one process don't mix.

    waiting, held, stalled: what the line in front of the detector says just now (requests, bytes, seconds)."""

    def __init__(self, *, waiting: Callable[[], float], held: Callable[[], float], stalled: Callable[[], float]):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "faces_requests", "Requests that were answered.", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "faces_request_seconds", "From a request's head to the end of its answer.", ("route",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._answers = Counter(
            "faces_answers", "Faces and videos by what was answered; files that could not be read.", ("answer",),
            registry=self.registry,
        )  # fmt: skip
        self._stages = Counter(
            "faces_stage_seconds", "Seconds of threads that judging took.", ("stage",), registry=self.registry
        )
        for name, about, ask in (
            ("faces_waiting_requests", "Requests under way.", waiting),
            ("faces_held_bytes", "Bytes of photos in memory.", held),
            ("faces_stalled_seconds", "For how long no thread has come back; 0 while all is well.", stalled),
        ):
            Gauge(name, about, registry=self.registry).set_function(ask)

    def judged(self, result: Result) -> None:
        """Count one answer."""
        kind = result.verdict.label if result.verdict is not None else result.status
        self._answers.labels(kind.lower().replace(" ", "_")).inc()
        for stage, seconds in result.stages.items():
            self._stages.labels(stage).inc(seconds)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All figures in Prometheus' text format, of the content type `KIND`."""
        return generate_latest(self.registry)


class Counting:
    """Around an ASGI application: counts its requests. routes: the paths that are told apart."""

    def __init__(self, app, *, counts: Counts, routes: frozenset[str]):
        self.app, self.counts, self.routes = app, counts, routes

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 499  # the asker has gone

        async def listening(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, listening)
        except Exception:
            status = 500
            raise
        finally:
            path, method = scope["path"], scope["method"]
            self.counts.request(
                path if path in self.routes else OTHER,
                method if method in ("GET", "HEAD", "POST", "OPTIONS") else OTHER,
                status,
                time.perf_counter() - begin,
            )
