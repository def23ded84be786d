"""A prediction without HTTP: items in, labels and scores out. Resources and the canary both come through here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate import wire
from bedplate.bundle import Bundle
from bedplate.web.body import Items, Limits, parse_items
from bedplate.web.engines import EnginePool

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


class Predictor:
    def __init__(self, engines: EnginePool, limits: Limits):
        self._engines = engines
        self._limits = limits

    async def predict(self, model: Bundle, content_type: str, body: bytes, deadline_ns: int) -> Prediction:
        """Parse `body`, ask an engine, name the classes.

        Raises:
            ServiceError: see errors.py.
        """
        items = await parse_items(content_type, body, model, self._limits)
        return await self._infer(model, items, deadline_ns)

    async def canary(self, model: Bundle, deadline_ns: int) -> bool:
        """True if the bundle's own example gets its known label, through everything a request goes through.

        Raises:
            ServiceError: no answer at all.
        """
        result = await self.predict(model, model.canary.content_type, model.canary.content, deadline_ns)
        return bool(result.predictions[0]["label"] == model.canary.label)

    async def _infer(self, model: Bundle, items: Items, deadline_ns: int) -> Prediction:
        spec = model.input
        meta = {
            "model": model.name,
            "version": model.version,
            "inputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(items.shape)}],
        }
        answer = await self._engines.predict(meta, np.ascontiguousarray(items).data.cast("B"), deadline_ns)
        output = answer.meta["outputs"][0]
        logits = np.frombuffer(answer.tensors, np.dtype(output["dtype"]).newbyteorder("<")).reshape(output["shape"])
        return Prediction(
            model=answer.meta["model"],
            version=answer.meta["version"],
            digest=answer.meta["digest"],
            predictions=name_classes(logits, model),
            queue_ns=answer.meta["queue_ns"],
            compute_ns=answer.meta["compute_ns"],
        )


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


def deadline_in(timeout_s: float) -> int:
    """The absolute deadline, as frames carry it."""
    return wire.now_ns() + int(timeout_s * 1e9)
