"""Counts every request, and logs predictions to the performance stream, one line each.

It wraps Falcon and is no middleware of it: a request whose client leaves is cancelled, and no middleware learns of it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from falcon.asgi import App, Request, Response

from bedplate.bundle.bundle import Bundle
from bedplate.web.bodies import BodyBudget
from bedplate.web.cache.response import Answer
from bedplate.web.checks import Check
from bedplate.web.http.connection import Direct
from bedplate.web.metrics import WebMetrics

_performance = logging.getLogger("bedplate.performance")
_KEY = "bedplate.observation"
# nginx's word for a client that left before the answer.
_CLIENT_LEFT = 499


@dataclass(slots=True)  # not frozen, which takes thrice as long; nobody changes it
class Inference:
    """The items of a /v2 request, and the time of each part."""

    items: int
    queue_ns: int
    decode_ns: int
    batch_ns: int
    compute_ns: int

    @property
    def parts_ns(self) -> dict[str, int]:
        return {"queue": self.queue_ns, "decode": self.decode_ns, "batch": self.batch_ns, "compute": self.compute_ns}


@dataclass(slots=True)
class Observation:
    """One request so far. The parts that handle it record their results here."""

    bodies: BodyBudget
    started_s: float = field(default_factory=time.monotonic)
    status: int = _CLIENT_LEFT
    request_id: str | None = None
    model: Bundle | None = None  # known, so it is safe to tell; a name from a URL is not
    body_bytes: int | None = None
    answer: Answer | None = None  # of /v1
    inference: Inference | None = None  # of /v2
    problem: str | None = None  # code of the error that was answered
    held_bytes: int = 0

    def hold(self, count: int) -> None:
        """Reserve memory for a body of this size, until the request ends.

        Raises:
            ServerBusy: there is none.
        """
        self.bodies.take(count)
        self.held_bytes += count


def observation(req: Request) -> Observation:
    found: Observation = req.scope[_KEY]
    return found


class Observer:
    """Counts requests when they end.

    Args:
        lines_per_s: at most so many lines for predictions, and as many for refused or failed ones; the others are only
            counted. A line costs more than all else that is done for a small request.
        bodies: the memory that requests hold until they end.
    """

    def __init__(self, metrics: WebMetrics, lines_per_s: int, bodies: BodyBudget):
        self.metrics = metrics
        self.bodies = bodies
        self._answered = Allowance(lines_per_s)
        self._failed = Allowance(lines_per_s)

    def begins(self) -> Observation:
        self.metrics.in_flight += 1
        return Observation(self.bodies)

    def leaves(self, seen: Observation) -> None:
        """Nothing came of it: somebody else observes this request from its beginning."""
        self.metrics.in_flight -= 1

    def ends(self, route: str, seen: Observation) -> None:
        self.metrics.in_flight -= 1
        self.bodies.give_back(seen.held_bytes)
        now_s = time.monotonic()
        seconds = now_s - seen.started_s
        self.metrics.request(route, seen.status, seconds)
        if seen.problem:
            self.metrics.error(seen.problem)
        if seen.model is None:
            return
        if seen.status != 200:
            self.metrics.failed(seen.model, seconds)
        elif seen.answer:
            found = seen.answer.prediction
            labels = [item.get("label") for item in found.predictions]
            parts_ns = found.parts_ns if seen.answer.was_computed else None
            self.metrics.prediction(seen.model, labels, seconds, parts_ns)
        elif seen.inference:
            self.metrics.answered(seen.model, seen.inference.items, seconds, seen.inference.parts_ns)
        allowance = self._answered if seen.status == 200 else self._failed
        if allowance.take(int(now_s)):
            line = _line(seen, seen.model, seconds)
            if untold := allowance.untold():
                line["untold"] = untold
            _performance.info("prediction", extra=line)


class Allowance:
    """A limit of lines per second, and the number of events above it."""

    def __init__(self, per_s: int):
        self._per_s = per_s
        self._second = 0
        self._left = 0
        self._untold = 0

    def take(self, second: int) -> bool:
        if second != self._second:
            self._second, self._left = second, self._per_s
        if self._left <= 0:
            self._untold += 1
            return False
        self._left -= 1
        return True

    def untold(self) -> int:
        """Return the number of events without a line since the last call."""
        untold, self._untold = self._untold, 0
        return untold


class ObservedApp(App[Request, Response]):
    """Falcon's application, observed; requests that `direct` answers never come here."""

    def __init__(self, observer: Observer, checks: list[Check], **options: Any):
        super().__init__(**options)
        self.checks = checks
        self._observer = observer
        self.direct: Direct = lambda exchange: False

    def add_route(self, uri_template: str, resource: object, **options: Any) -> None:
        """Do what Falcon's does; a route with GET also gets HEAD, and every route gets OPTIONS."""
        suffix = f"_{options['suffix']}" if options.get("suffix") else ""
        get = getattr(resource, f"on_get{suffix}", None)
        if get is not None:
            setattr(resource, f"on_head{suffix}", get)  # the connection leaves the body out
        taken = [method for method in ("GET", "HEAD", "POST") if hasattr(resource, f"on_{method.lower()}{suffix}")]

        async def on_options(req: Request, resp: Response, **_: Any) -> None:
            resp.status = 204
            resp.set_header("Allow", ", ".join([*taken, "OPTIONS"]))

        setattr(resource, f"on_options{suffix}", on_options)
        super().add_route(uri_template, resource, **options)

    # Falcon's own type ignores that its ASGI application is no WSGI application.
    async def __call__(  # type: ignore[override]
        self, scope: dict[str, Any], receive: Any, send: Any
    ) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        seen = scope[_KEY] = self._observer.begins()

        async def noting_the_status(event: Any) -> None:
            if event["type"] == "http.response.start":
                seen.status = event["status"]
            await send(event)

        try:
            await super().__call__(scope, receive, noting_the_status)
        finally:
            self._observer.ends(route_of(scope["path"]), seen)


def route_of(path: str) -> str:
    """Return one of six names, whatever the path: each name is a series in Prometheus."""
    if path.startswith("/v1/models/") and path.endswith("/predict"):
        return "predict"
    if path.startswith("/v2/models/") and path.endswith("/infer"):
        return "infer"
    if path == "/v1/models":
        return "models"
    if path == "/v2" or path.startswith("/v2/"):
        return "v2"
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
        line |= {"items": len(found.predictions), **_in_ms(found.parts_ns), "cache": seen.answer.lookup}
    elif seen.inference:
        line |= {"items": seen.inference.items, **_in_ms(seen.inference.parts_ns), "cache": "off"}
    return line


def _in_ms(parts_ns: dict[str, int]) -> dict[str, float]:
    return {f"{name}_ms": round(part_ns / 1e6, 3) for name, part_ns in parts_ns.items()}
