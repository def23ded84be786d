"""Frames in, frames out, on one unix socket. Runs in the event loop; the device thread belongs to the batcher."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from dataclasses import replace
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from bedplate import wire
from bedplate.bundle.strict_yaml import BundleError
from bedplate.engine.batcher import Batcher
from bedplate.engine.catalogue import Catalogue
from bedplate.engine.intake import ValidatedRequest, validate
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.warm_up import warm_up_steps
from bedplate.engine.work import Key, QueuedRequest, key_of
from bedplate.errors import Internal, ServiceError
from bedplate.wire import PROBE, Frame, FrameError, FrameReader, Type

logger = logging.getLogger(__name__)
# How long the last answers may take to leave, once everything is computed. A peer that reads takes milliseconds.
FLUSH_S = 5.0
# Metadata that a connection knows what they ask for; as many as its reader remembers.
_UNDERSTOOD = 64
_DEVICE_LOST = 3  # exit status
# How long the device waits for the event loop to say what it begins; it takes a turn.
_TELL_S = 1.0


class Server:
    """The connections of one engine, and the batcher that they share.

    Raises:
        ModelsError: the models' descriptions do not fit into one frame.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        loop: asyncio.AbstractEventLoop,
        queue_limit: int,
        metrics: EngineMetrics,
        batch_wait_ms: float = 0,
    ):
        wait_ns = int(batch_wait_ms * 1e6)
        self.batcher = Batcher(
            self._deliver,
            queue_limit,
            observer=metrics,
            wait_ns=wait_ns,
            on_lost=_end_the_process,
            offer=lambda: self._loop.call_soon_threadsafe(self.compute_short),
            announce=self._announce,
        )
        metrics.queue(lambda: self.batcher.depth, queue_limit)
        self.connections: set[Connection] = set()
        self._loop = loop
        self._metrics = metrics
        self.serve(catalogue)

    def serve(self, catalogue: Catalogue) -> None:
        """Serve these models and aliases from now on, and describe them to every web.

        Raises:
            ModelsError: they cannot be described; nothing has changed.
        """
        self.description = catalogue.describe()
        self.catalogue = catalogue
        self._metrics.serves(catalogue, self.batcher.figures)
        for connection in list(self.connections):
            connection.describe()

    def connection(self) -> Connection:
        return Connection(self)

    async def start(self) -> dict[Key, BundleError]:
        """Start the device thread and warm up every model in it; return those that do not run, and why."""
        refused: dict[Key, BundleError] = {}
        await asyncio.wrap_future(self.batcher.start(lambda: self._warm_up(refused)))
        return refused

    def _warm_up(self, refused: dict[Key, BundleError]) -> None:
        for model in self.catalogue.models:
            try:
                for step in warm_up_steps(model, self.batcher):
                    step()
            except BundleError as error:
                refused[key_of(model)] = error

    def probe(self) -> None:
        """Send one item of zeros through the queue and the device, the way of a request."""
        model = next((model for model in self.catalogue.models if not self.batcher.is_paused(key_of(model))), None)
        if model is None:
            # The only one is being swapped: that the device thread takes a job is all that can be seen.
            self.batcher.execute(lambda: None)
            return
        zeros = np.zeros((1, *model.bundle.input.smallest), model.bundle.input.numpy_dtype)
        self.batcher.submit(QueuedRequest(model, zeros, caller=_Nobody(), priority=PROBE))

    async def drain(self, flush_s: float = FLUSH_S) -> None:
        """Compute what is queued, send every answer, then close the connections."""
        self.batcher.drain()
        # The deliveries of the thread were put into the loop before its end was, so they are done after this line.
        await self._loop.run_in_executor(None, self.batcher.join)
        for connection in list(self.connections):
            connection.finish()
        await self._wait_for_goodbyes(flush_s)
        for connection in list(self.connections):
            connection.abort()
        await self._wait_for_goodbyes(flush_s)

    async def _wait_for_goodbyes(self, timeout_s: float) -> None:
        give_up = self._loop.time() + timeout_s
        while self.connections and self._loop.time() < give_up:
            await asyncio.sleep(0.01)

    def compute_short(self) -> None:
        """Compute what is queued: in the event loop if that is short, else in the device thread."""
        answer(self.batcher.compute_short())

    def _announce(self, work: QueuedRequest) -> None:
        """In the device thread: back when the web has been told that this one is begun, or cannot be."""
        told = threading.Event()
        self._loop.call_soon_threadsafe(self._tell_begun, work, told)
        told.wait(_TELL_S)

    def _tell_begun(self, work: QueuedRequest, told: threading.Event) -> None:
        work.caller.begins(work)
        # uvloop sends what is written at the end of this turn.
        self._loop.call_soon(told.set)

    def _deliver(self, works: list[QueuedRequest]) -> None:
        self._loop.call_soon_threadsafe(answer, works)


def answer(works: list[QueuedRequest]) -> None:
    """Answer each caller once, however many of its requests were in the batch: one write instead of many."""
    by_caller: dict[Any, list[QueuedRequest]] = {}
    for work in works:
        by_caller.setdefault(work.caller, []).append(work)
    for caller, theirs in by_caller.items():
        try:
            caller.answer(theirs)
        except Exception:
            # Its web finds the connection closed and asks again; the others get their answers.
            logger.exception("an answer could not be sent")
            caller.abort()


def _reply(work: QueuedRequest) -> list[bytes | memoryview]:
    if work.outputs is None:
        return wire.encode(_error(work.request_id, work.error or Internal("the model gave no answer")))
    bundle, shape = work.model.bundle, work.outputs.shape
    fixed = _fixed_meta(bundle.name, bundle.version, bundle.digest, bundle.output.name, bundle.output.dtype, shape)
    meta = fixed % (work.queue_ns, work.batch_ns, work.compute_ns, work.batch_items)
    return wire.assemble(Type.RESULT, work.request_id, meta, work.outputs.reshape(-1).view(np.uint8).data)


@lru_cache(maxsize=256)
def _fixed_meta(name: str, version: str, digest: str, output: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """The metadata of an answer but for the numbers that no other answer has."""
    outputs = [{"name": output, "dtype": dtype, "shape": shape}]
    meta = {"model": name, "version": version, "digest": digest, "outputs": outputs}
    numbers = b'"queue_ns":%d,"batch_ns":%d,"compute_ns":%d,"batch_items":%d'
    return wire.to_json(meta)[:-1].replace(b"%", b"%%") + b"," + numbers + b"}"


def _error(request_id: int, error: ServiceError) -> Frame:
    return Frame(Type.ERROR, request_id, error.to_meta())


def _end_the_process(reason: BaseException) -> NoReturn:
    """The webs find their connections closed and ask another engine; systemd starts this one anew."""
    logger.critical("the device is lost: %s", reason, exc_info=reason)
    os._exit(_DEVICE_LOST)


class _Nobody:
    """The caller of a probe: that the device computed it is all that counts."""

    def answer(self, works: list[QueuedRequest]) -> None:
        pass


class Connection(asyncio.Protocol):
    """The connection of one web process. When it closes, the requests that it waited for are dropped."""

    def __init__(self, server: Server):
        self._server = server
        self._reader = FrameReader()
        self._waiting: dict[int, QueuedRequest] = {}
        self._congested = False  # the peer does not take what it is sent
        self._described = True  # the peer was told of the last change
        self._validated: dict[int, tuple[dict[str, Any], ValidatedRequest]] = {}  # by the id of the metadata
        self._catalogue = server.catalogue  # that they were understood by

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._waiting or not self._reader.idle:
            logger.info("a peer left", extra={"unanswered": len(self._waiting), "mid_frame": not self._reader.idle})
        for work in self._waiting.values():
            self._server.batcher.cancel(work)
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._handle(frame)
            self._server.compute_short()
        except FrameError as error:
            logger.warning("connection closed: %s", error)
            self._transport.abort()

    def pause_writing(self) -> None:
        # Who does not take answers may not ask for more of them.
        self._congested = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._congested = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        if not self._described:
            self.describe()

    def describe(self, request_id: int = 0) -> None:
        """Send what is served. A web that does not read gets the last unrequested description once it reads again."""
        self._described = not self._congested or request_id != 0
        if self._described:
            frame = replace(self._server.description, id=request_id)
            self._transport.writelines(wire.encode(frame))

    def answer(self, works: list[QueuedRequest]) -> None:
        pieces: list[bytes | memoryview] = []
        for work in works:
            # Cancelled after the device had it: nobody waits for the answer.
            if self._waiting.pop(work.request_id, None):
                pieces += _reply(work)
        if pieces:
            self._transport.writelines(pieces)

    def begins(self, work: QueuedRequest) -> None:
        if work.request_id in self._waiting:
            self._transport.writelines(wire.encode(Frame(Type.BEGUN, work.request_id, {})))

    def finish(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _handle(self, frame: Frame) -> None:
        if frame.type is Type.PREDICT:
            self._predict(frame)
        elif frame.type is Type.CANCEL:
            if work := self._waiting.pop(frame.id, None):
                self._server.batcher.cancel(work)
        elif frame.type is Type.DESCRIBE:
            self.describe(frame.id)
        else:
            raise FrameError(f"a web sent {frame.type.name}, which only an engine may")

    def _predict(self, frame: Frame) -> None:
        if frame.id in self._waiting:
            raise FrameError("a request id was used twice")
        try:
            question = self._validate(frame.meta)
            inputs = question.read(frame.tensors)
            work = QueuedRequest(
                question.model, inputs, frame.deadline_ns, self, frame.id, question.cost, frame.priority, question.alone
            )
            self._server.batcher.queue(work)
        except ServiceError as error:
            self._transport.writelines(wire.encode(_error(frame.id, error)))
        else:
            self._waiting[frame.id] = work

    def _validate(self, meta: dict[str, Any]) -> ValidatedRequest:
        """The reader gives the same metadata the same object, so what was understood once holds for as long as it."""
        if self._catalogue is not self._server.catalogue or len(self._validated) >= _UNDERSTOOD:
            self._catalogue = self._server.catalogue
            self._validated.clear()
        known = self._validated.get(id(meta))
        if known is None:
            known = self._validated[id(meta)] = meta, validate(meta, self._catalogue)
        return known[1]
