"""What became of each request: counted, and for a prediction told in one line of the performance stream.

Around Falcon rather than a middleware of it: a request whose client leaves is cancelled, and no middleware hears of it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from falcon.asgi import App, Request, Response

from bedplate.bundle import Bundle
from bedplate.web.cache import Answer
from bedplate.web.metrics import WebMetrics

_performance = logging.getLogger("bedplate.performance")
_KEY = "bedplate.observation"
# nginx's word for a client that left before the answer.
_CLIENT_LEFT = 499


@dataclass(slots=True)
class Observation:
    """One request, as far as it came. What its parts find out they write here."""

    started_s: float = field(default_factory=time.monotonic)
    status: int = _CLIENT_LEFT
    request_id: str | None = None
    model: Bundle | None = None  # known, so it is safe to tell; a name from a URL is not
    body_bytes: int | None = None
    answer: Answer | None = None
    problem: str | None = None  # code of the error that was answered


def observation(req: Request) -> Observation:
    found: Observation = req.scope[_KEY]
    return found


class ObservedApp(App[Request, Response]):
    def __init__(self, metrics: WebMetrics, **options: Any):
        super().__init__(**options)
        self._metrics = metrics

    # Falcon's own type ignores that its ASGI application is no WSGI application.
    async def __call__(  # type: ignore[override]
        self, scope: dict[str, Any], receive: Any, send: Any
    ) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        seen = scope[_KEY] = Observation()

        async def noting_the_status(event: Any) -> None:
            if event["type"] == "http.response.start":
                seen.status = event["status"]
            await send(event)

        self._metrics.in_flight.inc()
        try:
            await super().__call__(scope, receive, noting_the_status)
        finally:
            self._metrics.in_flight.dec()
            self._count(route_of(scope["path"]), seen)

    def _count(self, route: str, seen: Observation) -> None:
        seconds = time.monotonic() - seen.started_s
        self._metrics.request(route, seen.status, seconds)
        if seen.problem:
            self._metrics.error(seen.problem)
        if seen.model is None:
            return
        if seen.answer and seen.status == 200:
            found = seen.answer.prediction
            self._metrics.prediction(seen.model, [item.get("label") for item in found.predictions], seconds)
            if seen.answer.was_computed:
                self._metrics.inference(seen.model, found.parts_ns)
        _performance.info("prediction", extra=_line(seen, seen.model, seconds))


def route_of(path: str) -> str:
    """One of four words, whatever strangers ask for: each is a series in Prometheus."""
    if path.startswith("/v1/models/") and path.endswith("/predict"):
        return "predict"
    if path == "/v1/models":
        return "models"
    return "health" if path in ("/ping", "/health") or path.startswith("/health/") else "other"


def _line(seen: Observation, model: Bundle, seconds: float) -> dict[str, Any]:
    line: dict[str, Any] = {
        "request_id": seen.request_id,
        "model": model.name,
        "version": model.version,
        "status": seen.status,
        "problem": seen.problem,
        "bytes_in": seen.body_bytes,
        "total_ms": round(seconds * 1e3, 3),
    }
    if seen.answer:
        found = seen.answer.prediction
        line |= {
            "items": len(found.predictions),
            **{f"{name}_ms": round(part_ns / 1e6, 3) for name, part_ns in found.parts_ns.items()},
            "cache": seen.answer.lookup,
        }
    return line
