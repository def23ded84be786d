"""The routes of /v2: each turns HTTP into one call and back."""

from __future__ import annotations

import json
from typing import Any

from falcon.asgi import App, Request, Response

from bedplate.web.engines.pool import RETRY_AFTER_S, EnginePool
from bedplate.web.items.limits import Limits
from bedplate.web.metrics import WebMetrics
from bedplate.web.oip import metadata
from bedplate.web.oip.plan import plan_of
from bedplate.web.oip.statistics import statistics
from bedplate.web.readiness import ReadinessProbe


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
    infer: object,
    probe: ReadinessProbe,
    limits: Limits,
    metrics: WebMetrics,
) -> None:
    """Add the routes of /v2 to `app`; `infer` is the resource that predicts."""
    for path in ("/v2", "/v2/"):
        app.add_route(path, Server())
    app.add_route("/v2/health/live", Live())
    app.add_route("/v2/health/ready", Ready(probe))
    app.add_route("/v2/logging", Logging())
    app.add_route("/v2/models/stats", Statistics(engines, metrics))
    app.add_route("/v2/repository/index", Index(engines))
    model = Model(engines, limits, metrics)
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        app.add_route(path, model)
        app.add_route(f"{path}/ready", model, suffix="ready")
        app.add_route(f"{path}/config", model, suffix="config")
        app.add_route(f"{path}/stats", model, suffix="stats")
        app.add_route(f"{path}/infer", infer)
