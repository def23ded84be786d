"""The decoders as the front end sees them: files in, items out. It parses no file itself (docs/adr/0017)."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate import errors, wire
from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle
from bedplate.errors import DecoderBusy, DecoderUnavailable, Internal, InvalidRequest, ServiceError, UnreadableMedia
from bedplate.web import current
from bedplate.web.options import RequestOptions, too_late
from bedplate.wire import Frame, FrameError, FrameReader, Type

_log = logging.getLogger("bedplate.web")
_RETRY_AFTER_S = 1
_READ_BYTES = 1 << 20
# Of a tokenizer for one request: the process that read it may be replaced before it is asked again.
_READINGS = 4


@dataclass(slots=True)  # not frozen, which takes thrice as long; nobody changes it
class Media:
    # (items, *shape) each, in the input's dtype: texts have one each, as their lengths differ.
    parts: list[npt.NDArray[Any]]
    # Of each file: how many `items` it became; of pictures `width` and `height`, of recordings and videos `at_s`, where
    # each item begins, and `length_s`.
    files: list[dict[str, Any]] = field(default_factory=list)

    @property
    def items(self) -> npt.NDArray[Any]:
        """Of what has one shape: all of them."""
        [items] = self.parts
        return items


class _Ended(Exception):
    """The connection ended without an answer: so did the process."""


class _NotTaken(Exception):
    """A decoder cannot be asked right now; another may."""

    def __init__(self, busy: bool):
        super().__init__()
        self.busy = busy


class Decoders:
    """The decoders of this host, by their sockets. Each decodes one request at a time; others wait in its socket."""

    def __init__(self, sockets: Sequence[Path], max_media_s: float = 600.0):
        self._max_media_s = max_media_s
        self._waiting = dict.fromkeys(sockets, 0)

    async def decode(
        self, files: Sequence[bytes], model: Bundle, options: RequestOptions, types: Sequence[str] = ()
    ) -> Media:
        """Return the items of `files` for `model`, from the least busy decoder.

        Args:
            types: the Content-Type of each file, if the model has a codec.

        Raises:
            InvalidRequest: see errors.py; also if decoding the file ended the process.
            Internal: the bundle's own program failed.
            DecoderBusy, DecoderUnavailable, DeadlineExceeded.
        """
        # A codec goes along each time: a copy costs less than asking whether it is known.
        sent = [model.codec_source, *files]
        meta = {"input": model.document["inputs"][0], "sizes": [len(file) for file in sent]}
        if model.codec:
            meta |= {"types": types, **_told_of(model)}
        if model.tokenizer:
            meta["tokenizer"] = model.tokenizer_sha256
        body = b"".join(sent) if sent[0] or len(files) > 1 else files[0]
        most = _most_bytes(model, len(files), self._max_media_s)
        paths: Sequence[Path] = ()
        for _ in range(_READINGS):
            answer, path = await self._answer(Type.DECODE, meta, body, options, most, _ended, paths)
            if "wanted" not in answer.meta:
                return _media_in(answer, model)
            # The others need not have read it either.
            paths = [path]
            await self._bring_tokenizer(model, options, paths)
        raise DecoderUnavailable(
            "the decoders are replaced faster than they read this model's tokenizer",
            next_step="try later; the operator may have to raise bedplate_decode_memory_mb",
            retry_after_s=_RETRY_AFTER_S,
        )

    async def _bring_tokenizer(self, model: Bundle, options: RequestOptions, paths: Sequence[Path]) -> None:
        """To a process that has not read it: by itself, so that no client's text is to blame where it is too large."""
        meta = {
            "input": model.document["inputs"][0],
            "sizes": [len(model.tokenizer)],
            "tokenizer": model.tokenizer_sha256,
        }
        try:
            await self._answer(Type.DECODE, meta, model.tokenizer, options, 0, _unreadable_tokenizer, paths)
        except InvalidRequest:
            raise _unreadable_tokenizer() from None

    async def encode(
        self, outputs: npt.NDArray[Any], items: Sequence[int], model: Bundle, options: RequestOptions
    ) -> list[Any]:
        """Return a prediction for each file, which the codec of `model` makes of its outputs.

        Args:
            outputs: (items, *output shape), as numbers.
            items: how many items each file became.

        Raises:
            Internal: the program failed.
            DecoderBusy, DecoderUnavailable, DeadlineExceeded.
        """
        shown = {"dtype": outputs.dtype.name, "shape": outputs.shape}
        sent = [model.codec_source, outputs.tobytes()]
        meta = {"outputs": [shown], "items": items, "sizes": [len(part) for part in sent], **_told_of(model)}
        answer, _ = await self._answer(Type.ENCODE, meta, b"".join(sent), options, 0, _failed)
        predictions: list[Any] = answer.meta["predictions"]
        return predictions

    async def _answer(
        self,
        kind: Type,
        meta: dict[str, Any],
        body: bytes | memoryview,
        options: RequestOptions,
        most_bytes: int,
        ended: Callable[[], ServiceError],
        paths: Sequence[Path] = (),
    ) -> tuple[Frame, Path]:
        """And who gave it.

        Args:
            ended: what is told where this was the end of the process.
            paths: who may be asked; left out: anybody.
        """
        question = wire.assemble(kind, 1, wire.to_json(meta), body, options.engine_deadline_ns)
        try:
            answer, path = await asyncio.wait_for(self._ask(question, most_bytes, paths), options.left_s)
        except asyncio.TimeoutError:
            raise too_late() from None
        except _Ended:
            raise ended() from None
        if answer.type is Type.ERROR:
            raise errors.from_meta(answer.meta)
        return answer, path

    async def _ask(
        self, question: list[bytes | memoryview], most_bytes: int, paths: Sequence[Path]
    ) -> tuple[Frame, Path]:
        is_busy = False
        for path in sorted(paths or self._waiting, key=self._waiting.__getitem__):
            self._waiting[path] += 1
            try:
                return await _ask(path, question, most_bytes), path
            except _NotTaken as refusal:
                is_busy |= refusal.busy
            finally:
                self._waiting[path] -= 1
        raise _refused(is_busy)


async def _ask(path: Path, question: list[bytes | memoryview], most_bytes: int) -> Frame:
    reader, writer = await asyncio.open_unix_connection(sock=_connected(path), limit=_READ_BYTES)
    try:
        writer.writelines(question)
        return await _answer(reader, most_bytes)
    except FrameError as error:
        _log.error("a decoder gives what is no answer", extra={"because": str(error)})
        raise _Ended from None
    except OSError:
        raise _Ended from None
    finally:
        writer.close()


def _connected(path: Path) -> socket.socket:
    """Without waiting: a unix socket takes a connection at once, or its queue is full."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise _NotTaken(busy=isinstance(error, BlockingIOError)) from None
    return connection


async def _answer(reader: asyncio.StreamReader, most_bytes: int) -> Frame:
    frames = FrameReader(most_bytes)
    while data := await reader.read(_READ_BYTES):
        if whole := frames.feed(data):
            return whole[0]
    raise _Ended


def _most_bytes(model: Bundle, files: int, max_media_s: float) -> int:
    """What items of so many files can take; a decoder that says more is none of ours any longer."""
    spec = model.input
    if model.codec:
        # Twice a full batch, so that a program that makes too many items is told so.
        return min(2 * spec.batch_bytes_of(model.max_cost), wire.MAX_TENSOR_BYTES)
    items = files
    if spec.clip:
        items = files * spec.clip.frames
    if spec.sound:
        items = 2 * files + math.ceil(max_media_s * spec.sound.rate_hz / spec.sound.hop)
    return min(items * spec.item_bytes_of(spec.largest), wire.MAX_TENSOR_BYTES)


def _media_in(answer: Frame, model: Bundle) -> Media:
    """Raises: Internal: what a decoder answers is not for this model."""
    try:
        shapes = [tuple(map(int, output["shape"])) for output in answer.meta["outputs"]]
        dtypes_told = {output["dtype"] for output in answer.meta["outputs"]}
        files = [dict(file) for file in answer.meta["files"]]
        numbers = dtypes.from_bytes(model.input.dtype, answer.tensors)
        if dtypes_told != {model.input.dtype} or len(numbers) != sum(map(math.prod, shapes)):
            raise ValueError("another datatype, or not as many numbers as are told")
        if not model.codec and not all(model.input.accepts(shape[1:]) for shape in shapes):
            raise ValueError("items of another shape")
        if sum(int(file["items"]) for file in files) != sum(shape[0] for shape in shapes):
            raise ValueError("other items than its files have")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        _log.error("a decoder gives what is no answer", extra={"because": str(error) or type(error).__name__})
        raise Internal("the file could not be decoded; the operator finds why under the request id") from None
    ends = list(accumulate(map(math.prod, shapes)))
    parts = [part.reshape(shape) for part, shape in zip(np.split(numbers, ends[:-1]), shapes, strict=True)]
    return Media(parts, files)


def _told_of(model: Bundle) -> dict[str, Any]:
    """Says that a codec comes along, and whom the decoder's log is to name."""
    return {"codec": {"model": model.name, "version": model.version, "request_id": current.REQUEST_ID.get()}}


def _ended() -> ServiceError:
    """What ends a decoder is nearly always what it decodes, so nobody else is asked to."""
    return UnreadableMedia(
        "the file was the end of the process that decoded it: it took too long, or broke the decoder",
        next_step="check that the file is complete; make it smaller or shorter",
    )


def _failed() -> ServiceError:
    """What goes into `encode` a model made, and no client."""
    _log.error("encode was the end of its process", extra={"request_id": current.REQUEST_ID.get()})
    return Internal("the model's own program failed; the operator finds why under the request id")


def _unreadable_tokenizer() -> ServiceError:
    _log.error(
        "a tokenizer was the end of the process that read it; raise bedplate_decode_memory_mb or bedplate_decode_cpu_s",
        extra={"request_id": current.REQUEST_ID.get()},
    )
    return Internal("the model's tokenizer cannot be read; the operator finds why under the request id")


def _refused(is_busy: bool) -> ServiceError:
    if is_busy:
        return DecoderBusy("too many files wait to be decoded", next_step="try later", retry_after_s=_RETRY_AFTER_S)
    return DecoderUnavailable(
        "no decoder runs at the moment", next_step="try later, or send a tensor", retry_after_s=_RETRY_AFTER_S
    )
