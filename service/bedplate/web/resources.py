"""The routes: each turns HTTP into one call and back."""

from __future__ import annotations

import json
import os
import resource
from typing import Any

from falcon.asgi import Request, Response

from bedplate import __version__
from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Tensor
from bedplate.web import encoding
from bedplate.web.call import Asked, Handler, Reply, Target
from bedplate.web.engines.pool import RETRY_AFTER_S, EnginePool
from bedplate.web.engines.served import Served
from bedplate.web.items.reader import BodyReader
from bedplate.web.observer import observation, route_of
from bedplate.web.options import options_of
from bedplate.web.readiness import ReadinessProbe
from bedplate.wire import now_ns


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


class Predictions:
    """What a handler predicts: with a version or an alias in its path, or without; then the default answers.

    Args:
        timeout_s: where the client allows no less.
    """

    def __init__(self, handler: Handler, engines: EnginePool, bodies: BodyReader, timeout_s: float):
        self._handler = handler
        self._engines = engines
        self._bodies = bodies
        self._timeout_s = timeout_s

    async def on_post(self, req: Request, resp: Response, name: str, version: str | None = None) -> None:
        started_ns = now_ns()
        target = Target(route_of(req.path), name, version)
        options = options_of(req.get_header, self._timeout_s)
        seen = observation(req)
        seen.model = await self._engines.model(name, version)
        body, seen.body_bytes = await self._bodies.read(req, seen.model, seen.hold, options, self._handler.takes)
        asked = Asked(target, req.get_header, body, options, started_ns, seen)
        call = self._handler.prepare(asked, seen.model)
        await _send(req, resp, await self._handler.answer(asked, call))


async def _send(req: Request, resp: Response, reply: Reply) -> None:
    resp.content_type = reply.content_type
    for name, value in reply.fields.items():
        resp.set_header(name, value)
    resp.data = reply.body
    if reply.may_be_compressed:
        resp.set_header("Vary", "Accept-Encoding")
        kind = encoding.accepted(req.get_header("Accept-Encoding"))
        smaller = await encoding.deflated(reply.body, kind)
        if smaller is not None and kind:
            resp.data = smaller
            resp.set_header("Content-Encoding", kind)


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
