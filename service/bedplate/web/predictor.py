"""A prediction without HTTP: items in, classes or numbers out. Resources and the canary both come through here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle
from bedplate.errors import Internal
from bedplate.web.engines.client import Engine
from bedplate.web.engines.coalesce import Member
from bedplate.web.engines.connection import Waiting
from bedplate.web.engines.pool import EnginePool
from bedplate.web.items.decoders import Decoders, Media
from bedplate.web.items.formats import parse_items
from bedplate.web.items.limits import Items, Limits
from bedplate.web.items.postprocess import predictions_of
from bedplate.web.options import RequestOptions, ran_out
from bedplate.wire import FixedMeta, Frame, Type, now_ns

T = TypeVar("T")
Places = npt.NDArray[np.intp]  # of items, in the order of the request
_log = logging.getLogger("bedplate.web")


@dataclass(slots=True)  # not frozen, which takes thrice as long; nobody changes it
class Prediction:
    model: str
    version: str
    digest: str  # of the bundle that the engine computed with
    predictions: list[Any]  # of a model without a codec objects
    queue_ns: int
    compute_ns: int
    decode_ns: int = 0
    batch_ns: int = 0

    @property
    def parts_ns(self) -> dict[str, int]:
        """What it took, by part; zeros for an answer that was kept."""
        return {"queue": self.queue_ns, "decode": self.decode_ns, "batch": self.batch_ns, "compute": self.compute_ns}


@dataclass(slots=True)
class Begun:
    """A question that an engine was asked without a wait."""

    predictor: Predictor
    options: RequestOptions
    engine: Engine
    member: Member

    def hand_to(self, waiting: Waiting) -> None:
        """Somebody else is told what the engine says."""
        self.member.hand_to(waiting)

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self.member.give_up()
        self.predictor.cancelled("engine", self.options)


class Predictor:
    """Stands before the decoders and the engines.

    Args:
        on_cancelled: told at which stage, decode or engine, a prediction was that nobody waits for any more.
    """

    def __init__(
        self,
        engines: EnginePool,
        decoders: Decoders,
        limits: Limits,
        on_cancelled: Callable[[str], None] = lambda stage: None,
    ):
        self._engines = engines
        self.decoders = decoders
        self._limits = limits
        self._on_cancelled = on_cancelled

    async def predict(self, model: Bundle, content_type: str, body: bytes, options: RequestOptions) -> Prediction:
        """Parse `body`, ask an engine, name the classes where the model has some.

        Raises:
            ServiceError: see errors.py.
        """
        options.require_time()
        started_ns = now_ns()
        parsing = parse_items(content_type, body, model, self._limits, self.decoders, options)
        media = await self.decode(parsing, options)
        decode_ns = now_ns() - started_ns
        answer = await self.infer_all(model, media.parts, options)
        telling = predictions_for(_outputs_of(answer), model, media, self.decoders, options)
        return _prediction(answer, model, await self.decode(telling, options), decode_ns)

    def prediction_of(self, answer: Frame, model: Bundle, items: Items, decode_ns: int) -> Prediction:
        """As `predict` tells the RESULT for `items` that are no files.

        Raises:
            Internal: it is of another version.
            NotFinite: the bundle allows NaN and infinity, and JSON has neither.
        """
        outputs = _outputs_of(require_version(model, answer))
        return _prediction(answer, model, predictions_of(outputs, model, Media([items])), decode_ns)

    async def decode(self, decoding: Awaitable[T], options: RequestOptions) -> T:
        """What `decoding` gives; if nobody waits for it any more, that is counted."""
        try:
            return await decoding
        except asyncio.CancelledError:
            self.cancelled("decode", options)
            raise

    async def infer_all(self, model: Bundle, parts: Sequence[Items], options: RequestOptions) -> Frame:
        """As `infer`, of items in several shapes, or more than an engine takes at once: one frame, in their order.

        One after another, so that a long recording does not stand before all others at once.
        """
        answers = [(places, await self.infer(model, items, options)) for places, items in _batches(parts, model)]
        return answers[0][1] if len(answers) == 1 else _joined(answers, model)

    def begin(self, model: Bundle, items: Items, options: RequestOptions, waiting: Waiting) -> Begun | None:
        """Ask an engine as `infer` does, without a wait; None if that cannot be.

        `waiting` is told what the engine says: a RESULT, or what `infer_after` makes the best of.
        """
        begun = self._engines.begin(*question(model, items), options, waiting)
        return begun and Begun(self, options, *begun)

    async def infer(self, model: Bundle, items: Items, options: RequestOptions) -> Frame:
        """Ask an engine for the outputs of `items`, (items, *shape) in the input's dtype.

        Returns: a RESULT frame of this very version.

        Raises:
            ServiceError: see errors.py.
        """
        return await self._result(model, self._engines.predict(*question(model, items), options), options)

    async def infer_after(self, begun: Begun, came: Frame | Exception, model: Bundle, items: Items) -> Frame:
        """As `infer`; what came of `begin` was the first attempt."""
        first = begun.engine, came
        asking = self._engines.predict(*question(model, items), begun.options, first)
        return await self._result(model, asking, begun.options)

    async def _result(self, model: Bundle, asking: Awaitable[Frame], options: RequestOptions) -> Frame:
        try:
            return require_version(model, await asking)
        except asyncio.CancelledError:
            self.cancelled("engine", options)
            raise

    def cancelled(self, stage: str, options: RequestOptions) -> None:
        """By whoever waited for it; at its deadline it is late, and told as that."""
        if not ran_out(options.deadline_ns, now_ns()):
            self._on_cancelled(stage)

    async def canary(self, model: Bundle, options: RequestOptions) -> bool:
        """True if the bundle's own example gets its known answer, through everything a request goes through.

        Raises:
            ServiceError: no answer at all.
        """
        result = await self.predict(model, model.canary.content_type, model.canary.content, options)
        return model.canary.found_in(result.predictions) == model.canary.wanted


def _batches(parts: Sequence[Items], model: Bundle) -> list[tuple[Places, Items]]:
    """Items of one shape, at most as many as an engine takes at once, and which of all they are."""
    alike: dict[tuple[int, ...], list[tuple[Places, Items]]] = {}
    first = 0
    for part in parts:
        alike.setdefault(part.shape[1:], []).append((np.arange(first, first + len(part)), part))
        first += len(part)
    batches = []
    for shape, found in alike.items():
        places, items = found[0] if len(found) == 1 else map(np.concatenate, zip(*found, strict=True))
        most = model.input.most_items(shape, model.max_items, model.max_cost)
        batches += [(places[at : at + most], items[at : at + most]) for at in range(0, len(items), most)]
    return batches


def _joined(answers: list[tuple[Places, Frame]], model: Bundle) -> Frame:
    """Several RESULT frames as one, each item at its place."""
    spec = model.output
    outputs = np.empty((sum(len(places) for places, _ in answers), *spec.smallest), spec.numpy_dtype)
    for places, answer in answers:
        outputs[places] = dtypes.from_bytes(spec.dtype, answer.tensors).reshape(len(places), *spec.smallest)
    metas = [answer.meta for _, answer in answers]
    meta = {
        **metas[0],
        "outputs": [{**metas[0]["outputs"][0], "shape": list(outputs.shape)}],
        **{part: sum(meta.get(part, 0) for meta in metas) for part in ("queue_ns", "batch_ns", "compute_ns")},
    }
    return Frame(Type.RESULT, answers[0][1].id, meta, outputs.tobytes())


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


def require_version(model: Bundle, answer: Frame) -> Frame:
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


async def predictions_for(
    outputs: npt.NDArray[Any], model: Bundle, media: Media, decoders: Decoders, options: RequestOptions
) -> list[Any]:
    """What a client reads of the outputs of its files, (items, *output shape)."""
    if model.codec:
        return await decoders.encode(outputs, [file["items"] for file in media.files], model, options)
    if model.detection:
        # Of thousands of candidates, which others need not wait for.
        return await asyncio.to_thread(predictions_of, outputs, model, media)
    return predictions_of(outputs, model, media)


def _prediction(answer: Frame, model: Bundle, predictions: list[Any], decode_ns: int) -> Prediction:
    meta = answer.meta
    return Prediction(
        model=model.name,
        version=model.version,
        digest=meta["digest"],
        predictions=predictions,
        queue_ns=meta["queue_ns"],
        compute_ns=meta["compute_ns"],
        decode_ns=decode_ns,
        batch_ns=meta.get("batch_ns", 0),
    )


def _outputs_of(answer: Frame) -> npt.NDArray[Any]:
    """(items, *output shape), as numbers."""
    output = answer.meta["outputs"][0]
    flat = dtypes.to_numbers(output["dtype"], dtypes.from_bytes(output["dtype"], answer.tensors))
    return np.asarray(flat.reshape(output["shape"]))
