"""/v1: whatever a client may send in, predictions out, from the cache where that can be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bedplate.bundle.bundle import Bundle
from bedplate.web import encoding
from bedplate.web.cache.response import Answer, Computation, ResponseCache
from bedplate.web.call import Asked, Handler, Reply
from bedplate.web.engines.connection import Waiting
from bedplate.web.engines.pool import EnginePool
from bedplate.web.items.files import EncodedFiles
from bedplate.web.items.formats import TYPES, holds_files, read_items
from bedplate.web.items.limits import Limits
from bedplate.web.predictor import Begun, Prediction, Predictor
from bedplate.wire import Frame, now_ns


class PredictHandler(Handler):
    takes = TYPES

    def __init__(
        self,
        engines: EnginePool,
        predictor: Predictor,
        cache: ResponseCache,
        limits: Limits,
        on_stale: Callable[[], None] = lambda: None,
    ):
        super().__init__(engines, on_stale)
        self.predictor = predictor
        self.cache = cache
        self.limits = limits

    def prepare(self, asked: Asked, model: Bundle) -> PredictCall:
        return PredictCall(self, asked, model)


class PredictCall:
    __slots__ = ("_asked", "_begun", "_computation", "_content_type", "_decode_ns", "_handler", "_items", "_model")

    _begun: Begun
    _decode_ns: int
    _items: Any

    def __init__(self, handler: PredictHandler, asked: Asked, model: Bundle):
        self._handler = handler
        self._asked = asked
        self._model = model
        self._content_type = asked.header("Content-Type") or ""
        self._computation: Computation | None = None

    def known(self) -> Reply | None:
        if holds_files(self._content_type, self._model):
            return None  # decoders take time
        asked = self._asked
        found = self._handler.cache.begin(
            self._model, self._content_type, asked.body, asked.options, self._cache_control
        )
        if isinstance(found, Answer):
            return self._reply(found)
        self._computation = found
        return None

    def begin(self, waiting: Waiting) -> bool:
        # Of thousands of candidates there are predictions after a while only.
        if self._computation is None or self._model.detection:
            return False
        started_ns = now_ns()
        asked, predictor = self._asked, self._handler.predictor
        asked.options.require_time()
        items = read_items(self._content_type, asked.body, self._model, self._handler.limits)
        if isinstance(items, EncodedFiles):
            return False
        begun = predictor.begin(self._model, items, asked.options, waiting)
        if begun is None:
            return False
        self._items, self._begun, self._decode_ns = items, begun, now_ns() - started_ns
        self._computation.start()
        return True

    def render(self, frame: Frame) -> Reply:
        assert self._computation is not None
        try:
            prediction = self._prediction(frame)
        except Exception as error:
            self._computation.fail(error)
            raise
        return self._reply(self._computation.finish(prediction))

    def leave(self) -> None:
        assert self._computation is not None
        if self._computation.leave():
            coming = asyncio.get_running_loop().create_future()
            self._begun.hand_to(coming)
            self._computation.go_on(self._computed_of(coming))
        else:
            self._begun.give_up()

    async def answer(self, came: Frame | Exception | None = None) -> Reply:
        asked, cache = self._asked, self._handler.cache
        if came is None:
            return self._reply(
                await cache.predict(self._model, self._content_type, asked.body, asked.options, self._cache_control)
            )
        assert self._computation is not None
        return self._reply(await self._computation.answer(self._computed(came), asked.options))

    async def _computed_of(self, coming: Awaitable[Frame]) -> Prediction:
        """Of an engine that was asked for a client who has left, while others wait for the same."""
        try:
            came: Frame | Exception = await coming
        except asyncio.CancelledError:
            self._begun.give_up()
            raise
        except Exception as error:
            came = error
        return await self._computed(came)

    async def _computed(self, came: Frame | Exception) -> Prediction:
        predictor = self._handler.predictor
        return self._prediction(await predictor.infer_after(self._begun, came, self._model, self._items))

    def _prediction(self, frame: Frame) -> Prediction:
        return self._handler.predictor.prediction_of(frame, self._model, self._items, self._decode_ns)

    @property
    def _cache_control(self) -> str:
        return self._asked.header("Cache-Control") or ""

    def _reply(self, answer: Answer) -> Reply:
        self._asked.seen.answer = answer
        found = answer.prediction
        document = {
            "model": found.model,
            "version": found.version,
            "predictions": found.predictions,
            "request_id": self._asked.seen.request_id,
        }
        fields = {"Server-Timing": _server_timing(found)}
        if answer.cache_status:
            fields["Cache-Status"] = answer.cache_status
        return Reply(encoding.to_json(document), "application/json", fields, may_be_compressed=False)


def _server_timing(found: Prediction) -> str:
    return (
        f"queue;dur={found.queue_ns / 1e6:.3f}, decode;dur={found.decode_ns / 1e6:.3f}, "
        f"batch;dur={found.batch_ns / 1e6:.3f}, compute;dur={found.compute_ns / 1e6:.3f}"
    )
