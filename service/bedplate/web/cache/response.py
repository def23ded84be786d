"""The response cache: what was answered once is not computed again (docs/adr/0008).

An answer is kept under all that it depends on, so nothing kept is ever wrong and nothing has to be invalidated. Two
tiers: the memory of this process, then Redis. Only answers are kept, no errors and no bodies.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Tensor
from bedplate.web.cache.memory import MemoryCache
from bedplate.web.cache.shared import SharedCache
from bedplate.web.cache.single_flight import SingleFlight
from bedplate.web.items.formats import how_it_is_read
from bedplate.web.items.limits import Limits
from bedplate.web.options import RequestOptions, too_late
from bedplate.web.predictor import Prediction, Predictor

# Hashing more than this would hold up the other requests of the process for more than about a millisecond.
_INLINE_BYTES = 1 << 20
# Each release is installed under a path of its own: other code may read the same picture otherwise.
_RELEASE = sys.prefix
# What JSON makes of each kind of numbers; whole ones of 64 bits without a sign may be beyond the others.
_KINDS = {"b": "b", "i": "i", "u": "iuf", "f": "f"}
# What an answer about a recording or a video has besides.
_OF_FILES = frozenset({"length_s", "windows", "frames"})
_OF_BOX = ("score", "x", "y", "width", "height")
_BYPASS = frozenset({"no-cache", "no-store"})


@dataclass(frozen=True)
class Answer:
    prediction: Prediction
    lookup: str  # memory, shared, miss, bypass; off
    collapsed: bool = False  # one computation answered several requests

    @property
    def was_computed(self) -> bool:
        """For this request, and not for another that it shares the answer with."""
        return self.lookup in ("miss", "bypass", "off") and not self.collapsed

    @property
    def cache_status(self) -> str | None:
        """The header of RFC 9211; None where there is no cache."""
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
    """Stands before the predictor.

    Args:
        ttl_s: how long each tier keeps an answer; 0 keeps nothing.
        memory_bytes: of the first tier.
        shared: the second tier, if there is one.
        shared_min_ms: where an engine answers faster than this, on the mean, the second tier is left out.
        on_lookup: told how each request fared: memory, shared, miss, bypass.
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
        self._flights: SingleFlight[tuple[Prediction, str]] = SingleFlight()
        self._engine_ms: dict[str, float] = {}  # by the digest of the bundle, a running mean

    @property
    def available(self) -> bool:
        """False while Redis is declared and left alone because it failed."""
        return self._shared is None or self._shared.available

    async def predict(
        self, model: Bundle, content_type: str, body: bytes, options: RequestOptions, cache_control: str = ""
    ) -> Answer:
        """As Predictor.predict, answered from the cache where that can be.

        Raises:
            ServiceError: see errors.py.
        """
        ttl_s = self._ttl_of(model)
        if not ttl_s:
            return Answer(await self._predictor.predict(model, content_type, body, options), "off")
        if _BYPASS & {directive.strip().lower() for directive in cache_control.split(",")}:
            self._on_lookup("bypass")
            return Answer(await self._predictor.predict(model, content_type, body, options), "bypass")
        key = await self._key(model, content_type, body)
        if text := self._memory.get(key):
            self._on_lookup("memory")
            return Answer(_from_text(text, model), "memory")

        lookup, collapsed = "miss", False
        try:
            (prediction, lookup), collapsed = await self._flights.join(
                # Who is in a hurry does not wait for what an engine does when it has time.
                f"{key}:{options.priority}",
                lambda: self._look_further(key, model, content_type, body, options),
                options.left_s,
            )
        except asyncio.TimeoutError:
            raise too_late() from None
        finally:
            self._on_lookup(lookup)
        return Answer(prediction, lookup, collapsed)

    async def _key(self, model: Bundle, content_type: str, body: bytes) -> str:
        how = [
            *(_RELEASE, model.name, model.version, model.digest),
            *(self._limits.items, content_type if model.codec else how_it_is_read(content_type)),
        ]
        digest = hashlib.sha256(json.dumps(how).encode())
        if len(body) > _INLINE_BYTES:
            await asyncio.to_thread(digest.update, body)
        else:
            digest.update(body)
        return digest.hexdigest()

    async def _look_further(
        self, key: str, model: Bundle, content_type: str, body: bytes, options: RequestOptions
    ) -> tuple[Prediction, str]:
        """From Redis where that is worth the way, else from an engine."""
        shared = self._shared if self._is_worth_sharing(model) else None
        if shared and (prediction := await self._from(shared, key, model)):
            return prediction, "shared"
        prediction = await self._predictor.predict(model, content_type, body, options)
        self._learn(prediction)
        # An engine may have loaded other content under the same version since it was described.
        if prediction.digest == model.digest:
            text = _to_text(prediction)
            ttl_s = self._ttl_of(model)
            self._memory.put(key, text, ttl_s)
            if shared and self._is_worth_sharing(model):
                shared.put(key, text, ttl_s)
        return prediction, "miss"

    async def _from(self, shared: SharedCache, key: str, model: Bundle) -> Prediction | None:
        text = await shared.get(key)
        if text is None:
            return None
        try:
            prediction = _from_text(text, model)
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


def _to_text(prediction: Prediction) -> bytes:
    document = {"model": prediction.model, "version": prediction.version, "predictions": prediction.predictions}
    return json.dumps(document, separators=(",", ":")).encode()


def _from_text(text: bytes, model: Bundle) -> Prediction:
    """A kept answer. Nothing was queued or computed for it.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: no answer of this model.
    """
    document = json.loads(text, parse_constant=_refuse_constant)
    predictions = document["predictions"]
    if (document["model"], document["version"]) != (model.name, model.version) or not predictions:
        raise ValueError("an answer of another model")
    if not isinstance(predictions, list) or not all(_is_prediction(one, model) for one in predictions):
        raise ValueError("no predictions")
    return Prediction(model.name, model.version, model.digest, predictions, queue_ns=0, compute_ns=0)


def _is_prediction(found: Any, model: Bundle) -> bool:
    if model.recommendation:
        return _is_recommended(found)
    if model.detection:
        return _is_boxes(found, model)
    if model.codec:
        return True  # whatever its author says
    return _is_named(found, model) if model.names_classes else _is_output(found, model.output)


def _is_boxes(found: Any, model: Bundle) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == {"boxes", "width", "height"}
        and all(type(found[side]) is int for side in ("width", "height"))
        and isinstance(found["boxes"], list)
        and all(
            isinstance(box, dict)
            and box.keys() == {"label", *_OF_BOX}
            and box["label"] in model.labels
            and all(isinstance(box[key], float) and math.isfinite(box[key]) for key in _OF_BOX)
            for box in found["boxes"]
        )
    )


def _is_output(found: Any, spec: Tensor) -> bool:
    if not isinstance(found, dict) or found.keys() != {"output"}:
        return False
    numbers = np.asarray(found["output"])  # fails where lists are of uneven length
    return (
        numbers.shape == spec.shape
        and numbers.dtype.kind in _KINDS[spec.numpy_dtype.kind if not spec.is_floating else "f"]
        and bool(np.isfinite(numbers).all())
    )


def _is_recommended(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == {"user", "items"}
        and isinstance(found["user"], str)
        and isinstance(found["items"], list)
        and all(
            isinstance(one, dict)
            and one.keys() == {"item", "score"}
            and isinstance(one["item"], str)
            and isinstance(one["score"], float)
            and math.isfinite(one["score"])
            for one in found["items"]
        )
    )


def _is_named(found: Any, model: Bundle) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() - _OF_FILES == {"label", "score", "scores"}
        and isinstance(found["scores"], dict)
        and {found["label"], *found["scores"]} <= set(model.labels)
        and all(
            isinstance(score, float) and math.isfinite(score) for score in (found["score"], *found["scores"].values())
        )
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
