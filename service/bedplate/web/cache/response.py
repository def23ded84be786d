"""The response cache: an answer that was computed once is not computed again (docs/adr/0008).

The key of an answer includes everything that the answer depends on, so no stored answer is ever wrong, and nothing
has to be invalidated. There are two tiers: the memory of this process, then Redis. They store answers only, no errors
and no bodies.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bedplate.bundle.bundle import Bundle
from bedplate.web.cache.kept import from_text, to_text
from bedplate.web.cache.memory import MemoryCache
from bedplate.web.cache.shared import SharedCache
from bedplate.web.cache.single_flight import Flight, SingleFlight
from bedplate.web.items.formats import how_it_is_read
from bedplate.web.items.limits import Limits
from bedplate.web.options import RequestOptions, too_late
from bedplate.web.predictor import Prediction, Predictor

# Hashing more than this would hold up the other requests of the process for more than about a millisecond.
_INLINE_BYTES = 1 << 20
# Each release is installed under a path of its own: other code may read the same picture otherwise.
_RELEASE = sys.prefix
_BYPASS = frozenset({"no-cache", "no-store"})
Found = tuple[Prediction, str]  # and where: shared or miss


@dataclass(slots=True)  # not frozen, which takes thrice as long; nobody changes it
class Answer:
    prediction: Prediction
    lookup: str  # memory, shared, miss, bypass; off
    collapsed: bool = False  # one computation answered several requests

    @property
    def was_computed(self) -> bool:
        """Whether an engine computed it for this request, and not for another one that shares the answer."""
        return self.lookup in ("miss", "bypass", "off") and not self.collapsed

    @property
    def cache_status(self) -> str | None:
        """The header of RFC 9211; None if there is no cache."""
        status = _STATUS[self.lookup]
        return f"{status}; collapsed" if self.collapsed and status else status


_STATUS = {
    "memory": "bedplate; hit; detail=memory",
    "shared": "bedplate; hit; detail=shared",
    "miss": "bedplate; fwd=miss",
    "bypass": "bedplate; fwd=request",
    "off": None,
}


class ResponseCache:
    """Stands in front of the predictor.

    Args:
        ttl_s: how long each tier stores an answer; 0 stores nothing.
        memory_bytes: of the first tier.
        shared: the second tier, if there is one.
        shared_min_ms: models whose mean answer is faster than this skip the second tier.
        on_lookup: called with the result of each lookup: memory, shared, miss, bypass.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: Limits,
        ttl_s: int,
        memory_bytes: int,
        shared: SharedCache | None = None,
        shared_min_ms: float = 0,
        on_lookup: Callable[[str], None] = lambda result: None,
    ):
        self._predictor = predictor
        self._limits = limits
        self._memory = MemoryCache(memory_bytes, ttl_s)
        self._ttl_s = ttl_s
        self._shared = shared
        self._shared_min_ms = shared_min_ms
        self._on_lookup = on_lookup
        self._flights: SingleFlight[Found] = SingleFlight()
        self._computations_past = {past: Computation(self, past) for past in ("off", "bypass")}
        self._engine_ms: dict[str, float] = {}  # by the digest of the bundle, a running mean

    @property
    def available(self) -> bool:
        """False while Redis is configured but skipped because it failed."""
        return self._shared is None or self._shared.available

    async def predict(
        self, model: Bundle, content_type: str, body: bytes, options: RequestOptions, cache_control: str = ""
    ) -> Answer:
        """Do what Predictor.predict does, from the cache where possible.

        Raises:
            ServiceError: see errors.py.
        """
        if past := self._past(model, cache_control):
            self.tell(past)
            return Answer(await self._predictor.predict(model, content_type, body, options), past)
        key = await self._key(model, content_type, body)
        if found := self._remembered(key, model):
            return found

        lookup, collapsed = "miss", False
        try:
            (prediction, lookup), collapsed = await self._flights.join(
                _flight_of(key, options),
                lambda: self._look_further(key, model, content_type, body, options),
                options.left_s,
            )
        except asyncio.TimeoutError:
            raise too_late() from None
        finally:
            self.tell(lookup)
        return Answer(prediction, lookup, collapsed)

    def begin(
        self, model: Bundle, content_type: str, body: bytes, options: RequestOptions, cache_control: str = ""
    ) -> Answer | Computation | None:
        """As `predict`, without a wait.

        Returns: what this process remembers; or the computation that the caller has to make; None if there is a wait.
        """
        if past := self._past(model, cache_control):
            return self._computations_past[past]
        if len(body) > _INLINE_BYTES or (self._shared and self._is_worth_sharing(model)):
            return None
        key = self._digest(model, content_type, body)
        if found := self._remembered(key, model):
            return found
        flight = _flight_of(key, options)
        if flight in self._flights:
            return None
        return SharedComputation(self, self._flights, flight, model, key)

    def _past(self, model: Bundle, cache_control: str) -> str | None:
        """Why this request goes past the cache, if it does: there is none, or the client wants that."""
        if not self._ttl_of(model):
            return "off"
        directives = {directive.strip().lower() for directive in cache_control.split(",")} if cache_control else set()
        return "bypass" if directives & _BYPASS else None

    def tell(self, lookup: str) -> None:
        if lookup != "off":
            self._on_lookup(lookup)

    def _remembered(self, key: str, model: Bundle) -> Answer | None:
        text = self._memory.get(key)
        if text is None:
            return None
        self.tell("memory")
        return Answer(from_text(text, model), "memory")

    async def _key(self, model: Bundle, content_type: str, body: bytes) -> str:
        if len(body) > _INLINE_BYTES:
            return await asyncio.to_thread(self._digest, model, content_type, body)
        return self._digest(model, content_type, body)

    def _digest(self, model: Bundle, content_type: str, body: bytes) -> str:
        how = content_type if model.codec else how_it_is_read(content_type)
        digest = hashlib.sha256(_as_bytes(_RELEASE, model.name, model.version, model.digest, self._limits.items, how))
        digest.update(body)
        return digest.hexdigest()

    async def _look_further(
        self, key: str, model: Bundle, content_type: str, body: bytes, options: RequestOptions
    ) -> Found:
        """From Redis where that is worth the way, else from an engine."""
        shared = self._shared if self._is_worth_sharing(model) else None
        if shared and (prediction := await self._from(shared, key, model)):
            return prediction, "shared"
        prediction = await self._predictor.predict(model, content_type, body, options)
        self.keep(key, model, prediction, shared)
        return prediction, "miss"

    def keep(self, key: str, model: Bundle, prediction: Prediction, shared: SharedCache | None = None) -> None:
        self._learn(prediction)
        # An engine may have loaded other content under the same version since it was described.
        if prediction.digest == model.digest:
            text = to_text(prediction)
            ttl_s = self._ttl_of(model)
            self._memory.put(key, text, ttl_s)
            if shared and self._is_worth_sharing(model):
                shared.put(key, text, ttl_s)

    async def _from(self, shared: SharedCache, key: str, model: Bundle) -> Prediction | None:
        text = await shared.get(key)
        if text is None:
            return None
        try:
            prediction = from_text(text, model)
        except (ValueError, TypeError, KeyError, RecursionError):
            shared.discard(key)
            return None
        # How much of a time of the bundle's own is over already, Redis does not say with the value.
        if model.cache_ttl_s is None:
            self._memory.put(key, text)
        return prediction

    def _ttl_of(self, model: Bundle) -> int:
        """The operator's time, or the bundle's where that is shorter."""
        return self._ttl_s if model.cache_ttl_s is None else min(self._ttl_s, model.cache_ttl_s)

    def _is_worth_sharing(self, model: Bundle) -> bool:
        return self._engine_ms.get(model.digest, self._shared_min_ms) >= self._shared_min_ms

    def _learn(self, prediction: Prediction) -> None:
        took_ms = (prediction.queue_ns + prediction.compute_ns) / 1e6
        mean_ms = self._engine_ms.get(prediction.digest, took_ms)
        self._engine_ms[prediction.digest] = mean_ms + 0.1 * (took_ms - mean_ms)


@lru_cache(maxsize=256)
def _as_bytes(*how: str | int) -> bytes:
    """How a body is answered. The same for nearly all requests of one model."""
    return json.dumps(how).encode()


def _flight_of(key: str, options: RequestOptions) -> str:
    # Who is in a hurry does not wait for what an engine does when it has time.
    return f"{key}:{options.priority}"


class Computation:
    """A prediction that its first caller makes; nothing of it is kept, and nobody else waits for it.

    Args:
        lookup: off or bypass; of what is kept, miss.
    """

    __slots__ = ("_cache", "_lookup")

    def __init__(self, cache: ResponseCache, lookup: str):
        self._cache = cache
        self._lookup = lookup

    def start(self) -> None:
        """An engine has been asked."""
        self._cache.tell(self._lookup)

    def finish(self, prediction: Prediction) -> Answer:
        """The caller has made it."""
        return Answer(prediction, self._lookup)

    def fail(self, error: Exception) -> None:
        """There is none, for whoever waits for it."""

    def leave(self) -> bool:
        """The caller waits no longer. True if others do: then it has to `go_on`."""
        return False

    def go_on(self, computing: Coroutine[Any, Any, Prediction]) -> None:
        """`computing` makes it for those who wait."""
        raise AssertionError("nobody waits")

    async def answer(self, computing: Coroutine[Any, Any, Prediction], options: RequestOptions) -> Answer:
        """`computing` makes it for the caller, and for those who wait."""
        return Answer(await computing, self._lookup)


class SharedComputation(Computation):
    """One that is kept under `key`; whoever asks for the same meanwhile finds it among `flights`, by `flight_key`.

    Nothing but `start` comes before it has been started.
    """

    __slots__ = ("_flight", "_flight_key", "_flights", "_key", "_model")

    _flight: Flight[Found]

    def __init__(self, cache: ResponseCache, flights: SingleFlight[Found], flight_key: str, model: Bundle, key: str):
        super().__init__(cache, "miss")
        self._flights = flights
        self._flight_key = flight_key
        self._model = model
        self._key = key

    def start(self) -> None:
        super().start()
        self._flight = self._flights.lead(self._flight_key)

    def finish(self, prediction: Prediction) -> Answer:
        self._flights.land(self._flight, self._kept(prediction))
        return super().finish(prediction)

    def fail(self, error: Exception) -> None:
        self._flights.fail(self._flight, error)

    def leave(self) -> bool:
        return self._flights.leave(self._flight)

    def go_on(self, computing: Coroutine[Any, Any, Prediction]) -> None:
        self._flights.go_on(self._flight, self._found(computing))

    async def answer(self, computing: Coroutine[Any, Any, Prediction], options: RequestOptions) -> Answer:
        self.go_on(computing)
        try:
            prediction, lookup = await self._flights.wait(self._flight, options.left_s)
        except asyncio.TimeoutError:
            raise too_late() from None
        return Answer(prediction, lookup)

    async def _found(self, computing: Coroutine[Any, Any, Prediction]) -> Found:
        return self._kept(await computing)

    def _kept(self, prediction: Prediction) -> Found:
        self._cache.keep(self._key, self._model, prediction)
        return prediction, self._lookup
