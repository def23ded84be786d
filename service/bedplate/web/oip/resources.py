"""The routes of /v2: each turns HTTP into one call and back."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any

from falcon.asgi import App, Request, Response

from bedplate.bundle.bundle import Bundle
from bedplate.web import encoding
from bedplate.web.engines.pool import RETRY_AFTER_S, EnginePool
from bedplate.web.items.limits import Limits
from bedplate.web.items.reader import BodyReader
from bedplate.web.metrics import WebMetrics
from bedplate.web.observer import observation
from bedplate.web.oip import metadata
from bedplate.web.oip.handler import HEADER, InferHandler
from bedplate.web.oip.plan import plan_of
from bedplate.web.oip.response import Reply
from bedplate.web.oip.statistics import statistics
from bedplate.web.options import options_of
from bedplate.web.readiness import ReadinessProbe
from bedplate.web.versions import at_its_version
from bedplate.wire import now_ns


class Server:
    async def on_get(self, req: Request, resp: Response) -> None:
        _json(resp, metadata.SERVER)


class Live:
    async def on_get(self, req: Request, resp: Response) -> None:
        _json(resp, {"live": True})


class Ready:
    """The whole path works: every model's canary was answered rightly."""

    def __init__(self, probe: ReadinessProbe):
        self._probe = probe

    async def on_get(self, req: Request, resp: Response) -> None:
        ready = (await self._probe.check()).ready
        _json(resp, {"ready": ready})
        _unless(ready, resp)


class Model:
    """One model's own routes, at its version or its alias; without either, at its default."""

    def __init__(self, engines: EnginePool, limits: Limits, metrics: WebMetrics):
        self._engines = engines
        self._limits = limits
        self._metrics = metrics

    async def on_get(self, req: Request, resp: Response, name: str, version: str | None = None) -> None:
        model = await self._engines.model(name, version)
        _json(resp, metadata.model_metadata(model, await self._engines.served()))

    async def on_get_ready(self, req: Request, resp: Response, name: str, version: str | None = None) -> None:
        """An engine that serves it is connected."""
        model = await self._engines.model(name, version)
        ready = self._engines.is_connected(model)
        _json(resp, {"name": model.name, "ready": ready})
        _unless(ready, resp)

    async def on_get_config(self, req: Request, resp: Response, name: str, version: str | None = None) -> None:
        model = await self._engines.model(name, version)
        _json(resp, metadata.model_config(model, plan_of(model, self._limits).limits.items))

    async def on_get_stats(self, req: Request, resp: Response, name: str, version: str | None = None) -> None:
        """Of all its versions where none is named."""
        model = await self._engines.model(name, version)
        served = await self._engines.served()
        models = [model] if version else [found for found in served.bundles.values() if found.name == name]
        _json(resp, {"model_stats": statistics(models, self._metrics)})


class Statistics:
    """Of all models."""

    def __init__(self, engines: EnginePool, metrics: WebMetrics):
        self._engines = engines
        self._metrics = metrics

    async def on_get(self, req: Request, resp: Response) -> None:
        served = await self._engines.served()
        _json(resp, {"model_stats": statistics(served.bundles.values(), self._metrics)})


class Index:
    """What is served, as the protocol's model repository lists it. Nothing is loaded or unloaded here."""

    def __init__(self, engines: EnginePool):
        self._engines = engines

    async def on_post(self, req: Request, resp: Response) -> None:
        _json(resp, metadata.repository_index(await self._engines.served()))


class Logging:
    async def on_get(self, req: Request, resp: Response) -> None:
        _json(resp, metadata.LOGGING)


class Infer:
    """See `Predict` of /v1; what is asked of an engine is not kept in the cache.

    Args:
        timeout_s: where the client allows no less.
    """

    def __init__(
        self,
        engines: EnginePool,
        handler: InferHandler,
        bodies: BodyReader,
        timeout_s: float,
        metrics: WebMetrics,
    ):
        self._bodies = bodies
        self._engines = engines
        self._handler = handler
        self._timeout_s = timeout_s
        self._metrics = metrics

    async def on_post(self, req: Request, resp: Response, name: str, version: str | None = None) -> None:
        started_ns = now_ns()
        options = options_of(req.get_header, self._timeout_s)
        seen = observation(req)
        seen.model = await self._engines.model(name, version)
        body, seen.body_bytes = await self._bodies.read(req, seen.model, seen.hold, options, "a JSON document")

        def answer(model: Bundle) -> Awaitable[Reply]:
            return self._handler.answer(req.get_header, body, model, options, started_ns, seen)

        first = answer(seen.model)
        on_stale = self._metrics.stale
        await _send(req, resp, await at_its_version(self._engines, seen, name, version, first, answer, on_stale))


async def _send(req: Request, resp: Response, reply: Reply) -> None:
    resp.content_type = reply.content_type
    if reply.json_bytes is not None:
        resp.set_header(HEADER, str(reply.json_bytes))
    resp.set_header("Vary", "Accept-Encoding")
    kind = encoding.accepted(req.get_header("Accept-Encoding"))
    smaller = await encoding.deflated(reply.body, kind)
    resp.data = reply.body if smaller is None else smaller
    if smaller is not None and kind:
        resp.set_header("Content-Encoding", kind)


def _json(resp: Response, document: Any) -> None:
    resp.content_type = "application/json"
    resp.data = json.dumps(document).encode()


def _unless(ready: bool, resp: Response) -> None:
    if not ready:
        resp.status = 503
        resp.set_header("Retry-After", str(RETRY_AFTER_S))


def install(
    app: App[Request, Response],
    engines: EnginePool,
    handler: InferHandler,
    probe: ReadinessProbe,
    limits: Limits,
    bodies: BodyReader,
    timeout_s: float,
    metrics: WebMetrics,
) -> None:
    """Add the routes of /v2 to `app`."""
    for path in ("/v2", "/v2/"):
        app.add_route(path, Server())
    app.add_route("/v2/health/live", Live())
    app.add_route("/v2/health/ready", Ready(probe))
    app.add_route("/v2/logging", Logging())
    app.add_route("/v2/models/stats", Statistics(engines, metrics))
    app.add_route("/v2/repository/index", Index(engines))
    model = Model(engines, limits, metrics)
    infer = Infer(engines, handler, bodies, timeout_s, metrics)
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        app.add_route(path, model)
        app.add_route(f"{path}/ready", model, suffix="ready")
        app.add_route(f"{path}/config", model, suffix="config")
        app.add_route(f"{path}/stats", model, suffix="stats")
        app.add_route(f"{path}/infer", infer)
