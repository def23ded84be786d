"""Readiness of the whole path: a canary of every model goes through web and engine, and its result counts for a second.

Canaries overtake queued requests, but not what is being computed or decoded. A request for readiness does not wait
for that: until the canary is answered the last result holds. A busy model is ready as long as clients get answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bedplate.bundle.bundle import Bundle
from bedplate.errors import DeadlineExceeded, DecoderBusy, EngineBusy, ServiceError
from bedplate.web.engines.pool import EnginePool
from bedplate.web.options import within
from bedplate.web.predictor import Predictor
from bedplate.wire import PROBE

# The route is public: many askers must not become many predictions, nor slow canaries keep clients from the device.
# So a right answer is remembered for a few times as long as it took, within these bounds.
_REMEMBER_S = 1.0
_REMEMBER_MAX_S = 10.0
_REMEMBER_TIMES = 10
_CANARY_TIMEOUT_S = 10.0
# How long an asker waits for canaries: of models that have answered one, and of those that have not.
_WAIT_S = 1.5
_FIRST_WAIT_S = 5.0
_BUSY = (EngineBusy, DecoderBusy, DeadlineExceeded)


@dataclass(frozen=True)
class Readiness:
    ready: bool
    engines: dict[str, bool]  # name of the engine → connected
    models: dict[str, bool] = field(default_factory=dict)  # name of the model → its canary was right
    latency_ms: dict[str, float] = field(default_factory=dict)  # of each canary, so far if it is under way


class ReadinessProbe:
    """Sends canaries and remembers the results.

    Args:
        computed_s: returns when an engine last answered a client of this model, on the monotonic clock.
    """

    def __init__(self, engines: EnginePool, predictor: Predictor, computed_s: Callable[[Bundle], float]):
        self._engines = engines
        self._predictor = predictor
        self._computed_s = computed_s
        self._canaries: dict[str, _Canary] = {}  # by the digest of the bundle

    async def check(self) -> Readiness:
        try:
            models = await self._engines.models()
        except ServiceError:
            return Readiness(False, self._connected())
        canaries = {model.name: self._canary_of(model) for model in models.values()}
        # Those of bundles that are not the default any more are forgotten.
        self._canaries = {canary.model.digest: canary for canary in canaries.values()}
        await _wait_for(list(canaries.values()))
        right = {name: canary.right is True for name, canary in canaries.items()}
        latency_ms = {name: canary.latency_ms for name, canary in canaries.items()}
        return Readiness(all(right.values()), self._connected(), right, latency_ms)

    def _canary_of(self, model: Bundle) -> _Canary:
        known = self._canaries.get(model.digest)
        return known or _Canary(model, self._predictor, self._computed_s)

    def _connected(self) -> dict[str, bool]:
        return {engine.socket.stem: engine.connected for engine in self._engines.engines}


class _Canary:
    """What is known of one version by its canary."""

    def __init__(self, model: Bundle, predictor: Predictor, computed_s: Callable[[Bundle], float]):
        self.model = model
        self.right: bool | None = None  # None: nothing is known yet
        self._predictor = predictor
        self._computed_s = computed_s
        self._asked_s = 0.0
        self._took_s = 0.0
        self._asking: asyncio.Task[None] | None = None

    @property
    def latency_ms(self) -> float:
        took_s = time.monotonic() - self._asked_s if self._is_asking else self._took_s
        return round(took_s * 1e3, 3)

    @property
    def _is_asking(self) -> bool:
        return self._asking is not None and not self._asking.done()

    @property
    def _remember_s(self) -> float:
        if not self.right:
            return _REMEMBER_S
        return min(max(_REMEMBER_S, _REMEMBER_TIMES * self._took_s), _REMEMBER_MAX_S)

    def asked(self) -> asyncio.Task[None] | None:
        """The question that is under way, begun now if the last answer is too old; one for all who wait for it."""
        now_s = time.monotonic()
        if not self._is_asking:
            if self._asking is not None and now_s <= self._asked_s + self._took_s + self._remember_s:
                return None
            self._asked_s = now_s
            self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            self.right = await self._predictor.canary(self.model, within(_CANARY_TIMEOUT_S, PROBE))
        except _BUSY:
            if self._computed_s(self.model) < self._asked_s:
                self.right = False
        except ServiceError:
            self.right = False
        finally:
            self._took_s = time.monotonic() - self._asked_s


async def _wait_for(canaries: list[_Canary]) -> None:
    """Until all are answered, or until whoever asked has waited long enough."""
    asked = [(canary.right is not None, task) for canary in canaries if (task := canary.asked())]
    for is_known, timeout_s in ((False, _FIRST_WAIT_S), (True, _WAIT_S)):
        if tasks := [task for known, task in asked if known is is_known]:
            await asyncio.wait(tasks, timeout=timeout_s)
