"""/v2: tensors in and out, as the Open Inference Protocol has them."""

from __future__ import annotations

import re
from collections.abc import Callable

from bedplate.bundle.bundle import Bundle
from bedplate.errors import WrongSize
from bedplate.web.call import Asked, Handler, Reply
from bedplate.web.engines.connection import Waiting
from bedplate.web.engines.pool import EnginePool
from bedplate.web.items.decoders import Media
from bedplate.web.items.files import EncodedFiles, checked, decode_files
from bedplate.web.items.limits import Limits, limits_of
from bedplate.web.observer import Inference
from bedplate.web.oip.request import parse
from bedplate.web.oip.response import HEADER, encode, of_files
from bedplate.web.predictor import Begun, Predictor, require_version
from bedplate.wire import Frame, now_ns

_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)


class InferHandler(Handler):
    takes = "a JSON document"

    def __init__(
        self,
        engines: EnginePool,
        predictor: Predictor,
        limits: Limits,
        on_stale: Callable[[], None] = lambda: None,
    ):
        super().__init__(engines, on_stale)
        self.predictor = predictor
        self.limits = limits

    def prepare(self, asked: Asked, model: Bundle) -> InferCall:
        """The body may narrow what the headers ask for."""
        return InferCall(self, asked, model)


class InferCall:
    """What is asked of an engine here is not kept in the cache."""

    __slots__ = ("_begun", "_decode_ns", "_handler", "_model", "_options", "_request", "_seen", "_started_ns")

    _begun: Begun
    _decode_ns: int

    def __init__(self, handler: InferHandler, asked: Asked, model: Bundle):
        self._started_ns = now_ns()
        self._handler = handler
        self._model = model
        self._seen = asked.seen
        self._request = request = parse(asked.body, _json_bytes_of(asked.header(HEADER)), model, handler.limits)
        self._options = asked.options.narrowed(asked.started_ns, request.timeout_us, request.priority)
        self._options.require_time()

    def known(self) -> None:
        return None

    def begin(self, waiting: Waiting) -> bool:
        items = self._request.items
        if items is None:
            return False
        begun = self._handler.predictor.begin(self._model, items, self._options, waiting)
        if begun is None:
            return False
        self._begun, self._decode_ns = begun, now_ns() - self._started_ns
        return True

    def render(self, frame: Frame) -> Reply:
        assert self._request.items is not None
        require_version(self._model, frame)
        return self._reply(frame, len(self._request.items))

    def leave(self) -> None:
        self._begun.give_up()

    async def answer(self, came: Frame | Exception | None = None) -> Reply:
        predictor, items = self._handler.predictor, self._request.items
        if came is not None:
            assert items is not None
            return self._reply(await predictor.infer_after(self._begun, came, self._model, items), len(items))
        media = await self._media()
        self._decode_ns = now_ns() - self._started_ns
        frame = await predictor.infer_all(self._model, media.parts, self._options)
        if media.files and self._model.input.cuts_files:
            frame = of_files(frame, self._model, media.files)
        return self._reply(frame, sum(map(len, media.parts)))

    async def _media(self) -> Media:
        """What is sent: tensors as they are, files decoded."""
        request = self._request
        if request.items is not None:
            return Media([request.items])
        assert request.files is not None
        predictor, limits = self._handler.predictor, limits_of(self._model, self._handler.limits)
        files = checked(EncodedFiles(request.files), self._model, limits)
        decoding = decode_files(files, self._model, limits, predictor.decoders, self._options)
        return await predictor.decode(decoding, self._options)

    def _reply(self, frame: Frame, items: int) -> Reply:
        meta = frame.meta
        self._seen.inference = Inference(
            items, meta["queue_ns"], self._decode_ns, meta.get("batch_ns", 0), meta["compute_ns"]
        )
        return encode(frame, self._model, self._request)


def _json_bytes_of(given: str | None) -> int | None:
    """What Inference-Header-Content-Length says.

    Raises:
        WrongSize: it is no number.
    """
    if given is None:
        return None
    if not _NUMBER.fullmatch(given):
        raise WrongSize(f"{HEADER} is no number of bytes", next_step="send the length of the JSON, or leave it out")
    return int(given)
