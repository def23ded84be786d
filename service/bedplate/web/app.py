"""Wires the front end together, and does nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bedplate.process.instance import by_preference
from bedplate.telemetry.exposition import Exposition
from bedplate.web import openapi, problems, resources
from bedplate.web.auth import ApiKeys, RefusalLog, require_key
from bedplate.web.bodies import BodyBudget
from bedplate.web.cache.response import ResponseCache
from bedplate.web.cache.shared import SharedCache
from bedplate.web.checks import Check, PassChecks
from bedplate.web.direct import Direct
from bedplate.web.engines.pool import EnginePool
from bedplate.web.items.decoders import Decoders
from bedplate.web.items.limits import Limits
from bedplate.web.items.reader import BodyReader
from bedplate.web.lifespan import Lifespan
from bedplate.web.metrics import WebMetrics
from bedplate.web.observer import ObservedApp, Observer
from bedplate.web.oip import resources as oip
from bedplate.web.oip.handler import InferHandler
from bedplate.web.predict import PredictHandler
from bedplate.web.predictor import Predictor
from bedplate.web.readiness import ReadinessProbe
from bedplate.web.request_id import RequestId, RequestIds
from bedplate.web.settings import WebSettings


def create_app(
    settings: WebSettings,
    engines: EnginePool,
    keys: ApiKeys,
    metrics: WebMetrics,
    metrics_socket: Path | None = None,
    notify_address: str | None = None,
    cache_password: str = "",
    instance: int = 1,
) -> ObservedApp:
    """Return the ASGI application of one web instance.

    Args:
        metrics_socket: where its metrics are exported; None: nowhere.
        notify_address: systemd's notification socket, which gets READY when the lifespan has started.
        cache_password: of Redis, if settings.cache_socket is set.
        instance: its number.
    """
    limits = Limits(settings.max_body_bytes, settings.max_items)
    predictor = Predictor(
        engines, Decoders(by_preference(settings.decoders, instance), settings.max_media_s), limits, metrics.cancelled
    )
    bodies = BodyReader(limits)
    probe = ReadinessProbe(engines, predictor, metrics.computed_s)
    shared = _shared_cache(settings, cache_password, metrics)
    cache = ResponseCache(
        predictor,
        limits,
        settings.cache_ttl_s,
        settings.cache_memory_bytes,
        shared,
        settings.cache_shared_min_ms,
        metrics.cache_lookup,
    )
    exposition = Exposition(metrics_socket, metrics.registry) if metrics_socket else None
    ids = RequestIds()
    checks: list[Check] = [require_key(keys)]
    refusals = RefusalLog(settings.security_lines_per_s, metrics.refusal_untold)
    middleware: list[Any] = [
        RequestId(ids),
        PassChecks(checks, refusals),
        Lifespan(engines, exposition, notify_address),
    ]
    if shared:
        middleware.append(shared)
    observer = Observer(metrics, settings.performance_lines_per_s, BodyBudget(settings.max_inflight_bytes))
    app = ObservedApp(observer, checks, middleware=middleware)
    problems.install(app)
    app.add_route("/ping", resources.Ping())
    app.add_route("/health", resources.Live())
    app.add_route("/health/live", resources.Live())
    app.add_route("/health/ready", resources.Ready(probe))
    app.add_route("/health/detailed", resources.Detailed(probe))
    app.add_route("/openapi.json", openapi.Document())
    app.add_route("/v1/models", resources.Models(engines))
    timeout_s = settings.request_timeout_s
    predict = PredictHandler(engines, predictor, cache, limits, metrics.stale)
    infer = InferHandler(engines, predictor, limits, metrics.stale)
    predictions = resources.Predictions(predict, engines, bodies, timeout_s)
    app.add_route("/v1/models/{name}/predict", predictions)
    app.add_route("/v1/models/{name}/versions/{version}/predict", predictions)
    oip.install(app, engines, resources.Predictions(infer, engines, bodies, timeout_s), probe, limits, metrics)
    handlers = {"predict": predict, "infer": infer}
    app.direct = Direct(observer, ids, checks, engines, handlers, limits, timeout_s)
    return app


def _shared_cache(settings: WebSettings, password: str, metrics: WebMetrics) -> SharedCache | None:
    if not settings.cache_socket or not settings.cache_ttl_s:
        return None
    timeout_s = settings.cache_timeout_ms / 1e3
    cache = SharedCache(settings.cache_socket, password, settings.cache_ttl_s, timeout_s, metrics.cache_error)
    metrics.cache_available(lambda: float(cache.available))
    return cache
