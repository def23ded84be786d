"""The routes: each turns HTTP into one call and back."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

from falcon.asgi import Request, Response

from bedplate import __version__
from bedplate.bundle import Bundle
from bedplate.web.body import Limits, read_body
from bedplate.web.cache import ResponseCache
from bedplate.web.engines import RETRY_AFTER_S, EnginePool
from bedplate.web.observer import observation
from bedplate.web.predictor import deadline_in
from bedplate.web.readiness import ReadinessProbe


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
        models = await self._engines.models()
        _json(resp, {"models": [_describe(models[name]) for name in sorted(models)]})


class Predict:
    def __init__(self, engines: EnginePool, cache: ResponseCache, limits: Limits, timeout_s: float):
        self._engines = engines
        self._cache = cache
        self._limits = limits
        self._timeout_s = timeout_s

    async def on_post(self, req: Request, resp: Response, name: str) -> None:
        deadline_ns = deadline_in(self._timeout_s)
        seen = observation(req)
        seen.model = model = await self._engines.model(name)
        body = await read_body(req, self._limits)
        seen.body_bytes = len(body)
        seen.answer = answer = await self._cache.predict(
            model, req.content_type or "", body, deadline_ns, req.get_header("Cache-Control") or ""
        )
        result = answer.prediction
        _json(
            resp,
            {
                "model": result.model,
                "version": result.version,
                "predictions": result.predictions,
                "request_id": req.context.request_id,
            },
        )
        resp.set_header(
            "Server-Timing", f"queue;dur={result.queue_ns / 1e6:.3f}, compute;dur={result.compute_ns / 1e6:.3f}"
        )
        if answer.cache_status:
            resp.set_header("Cache-Status", answer.cache_status)


def _describe(model: Bundle) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "task": model.task,
        "description": model.description,
        "inputs": [{"name": model.input.name, "dtype": model.input.dtype, "shape": model.input.document}],
        "labels": list(model.labels),
    }


def _json(resp: Response, document: dict[str, Any]) -> None:
    resp.content_type = "application/json"
    resp.data = json.dumps(document).encode()
