"""A prediction without HTTP: items in, classes or numbers out. Resources and the canary both come through here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bedplate import dtypes
from bedplate.bundle import Bundle
from bedplate.errors import Internal
from bedplate.web.body import Items, Limits, parse_items
from bedplate.web.pool import EnginePool
from bedplate.web.terms import Terms, ran_out
from bedplate.wire import FixedMeta, Frame, now_ns

T = TypeVar("T")
_log = logging.getLogger("bedplate.web")

# Scores in an answer, best first; a classifier of a thousand labels need not send them all.
_MAX_SCORES = 10


@dataclass(frozen=True)
class Prediction:
    model: str
    version: str
    digest: str  # of the bundle that the engine computed with
    predictions: list[dict[str, Any]]
    queue_ns: int
    compute_ns: int
    decode_ns: int = 0
    batch_ns: int = 0

    @property
    def parts_ns(self) -> dict[str, int]:
        """What it took, by part; zeros for an answer that was kept."""
        return {"queue": self.queue_ns, "decode": self.decode_ns, "batch": self.batch_ns, "compute": self.compute_ns}


class Predictor:
    """Stands before the engines.

    Args:
        on_cancelled: told at which stage, decode or engine, a prediction was that nobody waits for any more.
    """

    def __init__(self, engines: EnginePool, limits: Limits, on_cancelled: Callable[[str], None] = lambda stage: None):
        self._engines = engines
        self._limits = limits
        self._on_cancelled = on_cancelled
        # A large picture takes up to 12 bytes a pixel while it is decoded, a small body may inflate to the largest one:
        # one at a time, or memory has no bound.
        self.large_decode = asyncio.Semaphore(1)

    async def predict(self, model: Bundle, content_type: str, body: bytes, terms: Terms) -> Prediction:
        """Parse `body`, ask an engine, name the classes where the model has some.

        Raises:
            ServiceError: see errors.py.
        """
        terms.require_time()
        started_ns = now_ns()
        items = await self.decode(
            parse_items(content_type, body, model, self._limits, self.large_decode, terms.require_time), terms
        )
        decode_ns = now_ns() - started_ns
        return _prediction(await self.infer(model, items, terms), model, decode_ns)

    async def decode(self, decoding: Awaitable[T], terms: Terms) -> T:
        """What `decoding` gives; if nobody waits for it any more, that is counted."""
        try:
            return await decoding
        except asyncio.CancelledError:
            self.cancelled("decode", terms)
            raise

    async def infer(self, model: Bundle, items: Items, terms: Terms) -> Frame:
        """Ask an engine for the outputs of `items`, (items, *shape) in the input's dtype.

        Returns: a RESULT frame of this very version.

        Raises:
            ServiceError: see errors.py.
        """
        try:
            return checked(model, await self._engines.predict(*question(model, items), terms))
        except asyncio.CancelledError:
            self.cancelled("engine", terms)
            raise

    def cancelled(self, stage: str, terms: Terms) -> None:
        """By whoever waited for it; at its deadline it is late, and told as that."""
        if not ran_out(terms.deadline_ns, now_ns()):
            self._on_cancelled(stage)

    async def canary(self, model: Bundle, terms: Terms) -> bool:
        """True if the bundle's own example gets its known answer, through everything a request goes through.

        Raises:
            ServiceError: no answer at all.
        """
        result = await self.predict(model, model.canary.content_type, model.canary.content, terms)
        return model.canary.found_in(result.predictions) == model.canary.wanted


def question(model: Bundle, items: Items) -> tuple[FixedMeta, memoryview]:
    """What a PREDICT frame carries, metadata and tensor, for `items` (items, *shape) in the input's dtype."""
    spec = model.input
    meta = _question_meta(model.name, model.version, spec.name, spec.dtype, items.shape)
    return meta, np.ascontiguousarray(items).data.cast("B")


@lru_cache(maxsize=256)
def _question_meta(name: str, version: str, input_name: str, dtype: str, shape: tuple[int, ...]) -> FixedMeta:
    """The metadata of a PREDICT frame: the same for all requests of one model and shape, so encoded once."""
    return FixedMeta(
        {
            "model": name,
            "version": version,
            "inputs": [{"name": input_name, "dtype": dtype, "shape": list(shape)}],
        }
    )


def checked(model: Bundle, answer: Frame) -> Frame:
    """A RESULT frame, if it is of this very version.

    Raises:
        Internal: it is of another.
    """
    found = (answer.meta["model"], answer.meta["version"])
    if found != (model.name, model.version):
        # The labels of one version must never name the classes of another.
        _log.error("an engine answered for %s, asked for %s", found, (model.name, model.version))
        raise Internal("the engine answered for another model")
    return answer


def _prediction(answer: Frame, model: Bundle, decode_ns: int) -> Prediction:
    output = answer.meta["outputs"][0]
    flat = dtypes.to_numbers(output["dtype"], dtypes.from_bytes(output["dtype"], answer.tensors))
    outputs = flat.reshape(output["shape"])  # (items, *output shape)
    return Prediction(
        model=model.name,
        version=model.version,
        digest=answer.meta["digest"],
        predictions=predictions_of(outputs, model),
        queue_ns=answer.meta["queue_ns"],
        compute_ns=answer.meta["compute_ns"],
        decode_ns=decode_ns,
        batch_ns=answer.meta.get("batch_ns", 0),
    )


def predictions_of(outputs: npt.NDArray[Any], model: Bundle) -> list[dict[str, Any]]:
    """What a model gave, (items, *output shape) as numbers, in the words of an answer: one for each item."""
    return name_classes(outputs, model) if model.names_classes else [{"output": one} for one in outputs.tolist()]


def name_classes(logits: npt.NDArray[Any], model: Bundle) -> list[dict[str, Any]]:
    """logits (items, classes) → per item the best label, its score, and the best scores by label."""
    scores = _ACTIVATIONS[model.activation](logits.astype(np.float64))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :_MAX_SCORES]
    named = []
    for row, best in zip(scores, order, strict=True):
        by_label = {model.labels[i]: round(float(row[i]), 6) for i in best}
        named.append({"label": model.labels[best[0]], "score": round(float(row[best[0]]), 6), "scores": by_label})
    return named


def _softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def _sigmoid(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _none(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return logits


_ACTIVATIONS = {"softmax": _softmax, "sigmoid": _sigmoid, "none": _none}
