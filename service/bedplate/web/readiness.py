"""Is the whole path well? A canary of every model, through web and engine, remembered for a second."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from bedplate.errors import ServiceError
from bedplate.web.pool import EnginePool
from bedplate.web.predictor import Predictor
from bedplate.web.terms import within

# The route is public: many askers must not become many predictions.
_REMEMBER_S = 1.0
_CANARY_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Readiness:
    ready: bool
    engines: dict[str, bool]  # name of the engine → connected
    models: dict[str, bool] = field(default_factory=dict)  # name of the model → its canary was right
    latency_ms: dict[str, float] = field(default_factory=dict)  # of each canary


class ReadinessProbe:
    def __init__(self, engines: EnginePool, predictor: Predictor):
        self._engines = engines
        self._predictor = predictor
        self._last: Readiness | None = None
        self._last_at_s = 0.0
        self._probing = asyncio.Lock()

    async def check(self) -> Readiness:
        async with self._probing:
            if self._last is None or time.monotonic() - self._last_at_s > _REMEMBER_S:
                self._last = await self._probe()
                self._last_at_s = time.monotonic()
            return self._last

    async def _probe(self) -> Readiness:
        try:
            models = await self._engines.models()
        except ServiceError:
            return Readiness(False, self._connected())
        right, latency_ms = {}, {}
        for model in models.values():
            started = time.monotonic()
            try:
                right[model.name] = await self._predictor.canary(model, within(_CANARY_TIMEOUT_S))
            except ServiceError:
                right[model.name] = False
            latency_ms[model.name] = round((time.monotonic() - started) * 1e3, 3)
        return Readiness(all(right.values()), self._connected(), right, latency_ms)

    def _connected(self) -> dict[str, bool]:
        return {engine.socket.stem: engine.connected for engine in self._engines.engines}
