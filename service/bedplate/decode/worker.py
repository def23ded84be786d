"""The process that decodes: one request after another, each on its own connection (docs/adr/0017)."""

from __future__ import annotations

import logging
import resource
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bedplate import wire
from bedplate.bundle import dtypes
from bedplate.bundle.strict_yaml import BundleError, Section
from bedplate.bundle.tensor import MEDIA, Tensor, read_input
from bedplate.decode.codec import Codec
from bedplate.decode.media import decode
from bedplate.decode.settings import DecodeSettings
from bedplate.decode.tokenizers import Tokenizers
from bedplate.errors import DeadlineExceeded, Internal, ServiceError, TooMuchMemory
from bedplate.wire import Frame, FrameError, FrameReader, Type

_log = logging.getLogger("bedplate.decode")
# A front end that sends or reads nothing for so long is gone.
SILENCE_S = 10.0
_READ_BYTES = 1 << 20
# A process that a file made larger than this leaves, and its memory with it.
_MAX_GROWTH_BYTES = 32 << 20
_PAGE_BYTES = resource.getpagesize()
# Nobody waits for an answer behind its deadline, and in this time everybody has noticed.
_GRACE_S = 0.25


class Worker:
    """Serve connections from `listener` until `kept` becomes readable, or the process has to be replaced.

    It has to be replaced when it has grown, has run a bundle's program, or has served as many files or seconds as
    `settings` allow. Clients then wait in the socket for the few milliseconds that the next process needs.
    """

    def __init__(
        self, listener: socket.socket, settings: DecodeSettings, kept: int, max_growth_bytes: int = _MAX_GROWTH_BYTES
    ):
        self._listener = listener
        self._settings = settings
        self._kept = kept
        self._max_growth_bytes = max_growth_bytes
        self._has_run_code = False
        self._files = 0
        self._tokenizers = Tokenizers(settings.max_memory_bytes // 2, lambda: _memory_bytes()[1])

    def run(self) -> None:
        virtual, resident = _memory_bytes()
        limit = virtual + self._settings.max_memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        # Its own children would stay when it is replaced.
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        end = time.monotonic() + self._settings.max_age_s
        while (left_s := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._kept, self._listener.fileno()], [], [], left_s)
            if self._kept in ready or not ready:
                return
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(SILENCE_S)
                self._serve(connection)
            # Whatever a program left in this process, no other model's files meet it.
            has_grown = _memory_bytes()[1] - resident - self._tokenizers.kept_bytes > self._max_growth_bytes
            if has_grown or self._has_run_code or self._files >= self._settings.max_files:
                return

    def _serve(self, connection: socket.socket) -> None:
        try:
            question = _receive(connection)
            if question is None or _is_gone(connection):
                return
            self._files += _files_in(question)
            answer = self._answer(question)
            for piece in wire.encode(answer):
                connection.sendall(piece)
        except (FrameError, OSError) as error:
            # A front end that stopped, or a client that left: nobody waits.
            _log.info("a connection ended early", extra={"because": str(error) or type(error).__name__})

    def _answer(self, question: Frame) -> Frame:
        # The kernel ends us when it is over, whatever library holds the processor then.
        signal.setitimer(signal.ITIMER_PROF, self._settings.max_cpu_s)
        if "codec" in question.meta:
            self._has_run_code = True
            # A program may also wait, which takes no processor time.
            signal.setitimer(signal.ITIMER_REAL, _left_s(question, self._settings.max_cpu_s))
        try:
            return _answered(question, self._settings, self._tokenizers)
        except ServiceError as error:
            return _refusal(question, error)
        except MemoryError:
            limit = self._settings.max_memory_bytes
            return _refusal(
                question,
                TooMuchMemory(
                    f"decoding would take more than {limit} bytes of memory",
                    limit=limit,
                    next_step="send less, or ask the operator to raise bedplate_decode_memory_mb",
                ),
            )
        except Exception:
            _log.exception("fault while decoding")
            return _refusal(question, Internal("the file could not be decoded; the operator finds why in the journal"))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _receive(connection: socket.socket) -> Frame | None:
    """One frame; None if whoever connected left without a word, as one that tries the socket does.

    Raises:
        FrameError, OSError: it is none, or not all of one came.
    """
    reader = FrameReader()
    while data := connection.recv(_READ_BYTES):
        frames = reader.feed(data)
        if frames:
            return frames[0]
    if not reader.idle:
        raise FrameError("the connection ended inside a frame")
    return None


def _files_in(question: Frame) -> int:
    """Of those that libraries parse, which is not said of texts."""
    return 0 if "text" in question.meta.get("input", {}) else len(question.meta.get("sizes", [])[1:])


def _is_gone(connection: socket.socket) -> bool:
    """Whether nobody waits for the answer any more."""
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable)


def _answered(question: Frame, settings: DecodeSettings, tokenizers: Tokenizers) -> Frame:
    if question.type not in (Type.DECODE, Type.ENCODE):
        raise Internal(f"a decoder was sent {question.type.name}")
    if question.deadline_ns and wire.now_ns() >= question.deadline_ns:
        raise DeadlineExceeded("no answer within the deadline", next_step="send less, allow more time, or try later")
    codec = _codec(question, settings) if "codec" in question.meta else None
    if question.type is Type.DECODE:
        return _decoded(question, codec, settings, tokenizers)
    if codec is None:
        raise Internal("a decoder was sent outputs without a program that encodes them")
    return Frame(Type.RESULT, question.id, {"predictions": codec.encode(_outputs(question), question.meta["items"])})


def _decoded(question: Frame, codec: Codec | None, settings: DecodeSettings, tokenizers: Tokenizers) -> Frame:
    spec = _spec(question.meta["input"])
    brought, *files = _files(question)
    if spec.text:
        if len(brought):
            tokenizers.read(brought, question.meta["tokenizer"])
            return Frame(Type.RESULT, question.id, {"outputs": [], "files": []})
        tokenizer = tokenizers.find(question.meta["tokenizer"])
        if tokenizer is None:
            return Frame(Type.RESULT, question.id, {"wanted": question.meta["tokenizer"]})
        decoded = decode(files, spec, settings, tokenizer)
    elif codec:
        decoded = codec.decode([bytes(file) for file in files], question.meta["types"], spec)
    else:
        decoded = decode(files, spec, settings)
    parts = decoded.parts
    meta = {
        "outputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(part.shape)} for part in parts],
        "files": decoded.files,
    }
    tensors = parts[0].data.cast("B") if len(parts) == 1 else b"".join(part.tobytes() for part in parts)
    return Frame(Type.RESULT, question.id, meta, tensors)


def _codec(question: Frame, settings: DecodeSettings) -> Codec:
    seen = {key: str(question.meta["codec"].get(key, "")) for key in ("model", "version", "request_id")}
    return Codec(bytes(_files(question)[0]), settings.code, seen)


def _outputs(question: Frame) -> npt.NDArray[Any]:
    """(items, *output shape), the program's own to change."""
    [output] = question.meta["outputs"]
    flat = np.array(dtypes.from_bytes(output["dtype"], _files(question)[1]))
    return flat.reshape(output["shape"])


def _left_s(question: Frame, otherwise_s: float) -> float:
    if not question.deadline_ns:
        return otherwise_s
    return max(0.0, (question.deadline_ns - wire.now_ns()) / 1e9) + _GRACE_S


def _spec(document: dict[str, Any]) -> Tensor:
    try:
        return read_input(Section("input", document), next((kind for kind in MEDIA if kind in document), None))
    except BundleError as error:
        raise Internal(f"a decoder was sent an input that it does not know: {error}") from None


def _files(question: Frame) -> list[memoryview]:
    """What the bundle brings for decoding, its tokenizer or its codec or nothing, and the files."""
    content, files, at = memoryview(question.tensors), [], 0
    for size in question.meta["sizes"]:
        files.append(content[at : at + size])
        at += size
    return files


def _refusal(question: Frame, error: ServiceError) -> Frame:
    return Frame(Type.ERROR, question.id, error.to_meta())


def _memory_bytes() -> tuple[int, int]:
    """Virtual and resident, as the kernel counts them now."""
    virtual, resident = Path("/proc/self/statm").read_text().split()[:2]
    return int(virtual) * _PAGE_BYTES, int(resident) * _PAGE_BYTES
