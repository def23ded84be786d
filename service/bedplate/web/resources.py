"""The routes: each turns HTTP into one call and back."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Awaitable, Callable
from typing import Any

from falcon.asgi import Request, Response

from bedplate import __version__
from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Tensor
from bedplate.web.cache.response import Answer, ResponseCache
from bedplate.web.engines.pool import RETRY_AFTER_S, EnginePool
from bedplate.web.engines.served import Served
from bedplate.web.items.reader import BodyReader
from bedplate.web.observer import observation
from bedplate.web.options import options_of
from bedplate.web.predictor import Prediction
from bedplate.web.readiness import ReadinessProbe
from bedplate.web.versions import at_its_version


class Ping:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = "text/plain"
        resp.data = b"pong"


class Live:
    """This program runs and takes requests; says nothing about engines."""

    async def on_get(self, req: Request, resp: Response) -> None:
        _json(resp, {"status": "ok"})


class Ready:
    """The whole path works: every model's canary was answered rightly."""

    def __init__(self, probe: ReadinessProbe):
        self._probe = probe

    async def on_get(self, req: Request, resp: Response) -> None:
        ready = (await self._probe.check()).ready
        _json(resp, {"status": "ready" if ready else "not ready"})
        if not ready:
            resp.status = 503
            resp.set_header("Retry-After", str(RETRY_AFTER_S))


class Detailed:
    """Each part with its latency, for operators: nginx does not let it out."""

    def __init__(self, probe: ReadinessProbe):
        self._probe = probe

    async def on_get(self, req: Request, resp: Response) -> None:
        state = await self._probe.check()
        load_1m, _, _ = os.getloadavg()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        document = {
            "status": "ready" if state.ready else "not ready",
            "version": __version__,
            "engines": [{"name": name, "connected": connected} for name, connected in state.engines.items()],
            "models": [
                {"name": name, "canary": right, "latency_ms": state.latency_ms[name]}
                for name, right in state.models.items()
            ],
            "system": {"load_1m": round(load_1m, 2), "web_max_memory_mib": usage.ru_maxrss // 1024},
        }
        _json(resp, document)
        resp.status = 200 if state.ready else 503


class Models:
    def __init__(self, engines: EnginePool):
        self._engines = engines

    async def on_get(self, req: Request, resp: Response) -> None:
        defaults = await self._engines.models()
        served = await self._engines.served()
        _json(resp, {"models": [_describe(defaults[name], served) for name in sorted(defaults)]})


class Predict:
    """With a version or an alias in its path, or without: then the default answers.

    Args:
        timeout_s: where the client allows no less.
        on_stale: told that a version was gone by the time its engine was asked, and that another is asked instead.
    """

    def __init__(
        self,
        engines: EnginePool,
        cache: ResponseCache,
        bodies: BodyReader,
        timeout_s: float,
        on_stale: Callable[[], None] = lambda: None,
    ):
        self._engines = engines
        self._cache = cache
        self._bodies = bodies
        self._timeout_s = timeout_s
        self._on_stale = on_stale

    async def on_post(self, req: Request, resp: Response, name: str, version: str | None = None) -> None:
        options = options_of(req.get_header, self._timeout_s)
        seen = observation(req)
        seen.model = await self._engines.model(name, version)
        body, seen.body_bytes = await self._bodies.read(req, seen.model, seen.hold, options)

        def asked(model: Bundle) -> Awaitable[Answer]:
            cache_control = req.get_header("Cache-Control") or ""
            return self._cache.predict(model, req.content_type or "", body, options, cache_control)

        first = asked(seen.model)
        answer = await at_its_version(self._engines, seen, name, version, first, asked, self._on_stale)
        seen.answer = answer
        _json(resp, {**_document(answer.prediction), "request_id": req.context.request_id})
        resp.set_header("Server-Timing", _server_timing(answer.prediction))
        if answer.cache_status:
            resp.set_header("Cache-Status", answer.cache_status)


def _document(found: Prediction) -> dict[str, Any]:
    return {"model": found.model, "version": found.version, "predictions": found.predictions}


def _server_timing(found: Prediction) -> str:
    return ", ".join(f"{name};dur={part_ns / 1e6:.3f}" for name, part_ns in found.parts_ns.items())


def _describe(model: Bundle, served: Served) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "versions": served.versions(model.name),
        "aliases": dict(served.aliases.get(model.name, {})),
        "task": model.task,
        "description": model.description,
        "inputs": [_input(model.input)],
        "labels": list(model.labels),
        **({"max_k": model.recommendation.max_k} if model.recommendation else {}),
    }


def _input(spec: Tensor) -> dict[str, Any]:
    described = {"name": spec.name, "dtype": spec.dtype, "shape": spec.document}
    return {**described, "columns": [column.document for column in spec.columns]} if spec.columns else described


def _json(resp: Response, document: dict[str, Any]) -> None:
    resp.content_type = "application/json"
    resp.data = json.dumps(document).encode()
