"""The admin socket: an operator's command in, an answer out, in the frames of wire.py (docs/adr/0011)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from bedplate import wire
from bedplate.bundle.strict_yaml import BundleError
from bedplate.engine.catalogue import DEFAULT, ModelsError
from bedplate.engine.loader import Loader
from bedplate.errors import ServiceError
from bedplate.process import endpoint
from bedplate.process.settings import SettingsError
from bedplate.wire import Frame, FrameError, FrameReader, Type

logger = logging.getLogger(__name__)
Answer = dict[str, Any]
# Each holds one question at most. An operator has one; a script that forgets to hang up must not take all memory.
_MAX_OPERATORS = 64
_MAX_TEXT = 4096


class Refused(Exception):
    """An invalid command; the message says what would be valid."""


class Admin:
    """Executes operators' commands through `loader`.

    Args:
        models_dir: bundles are loaded only from below this directory; None: from nowhere.
    """

    def __init__(self, loader: Loader, models_dir: Path | None):
        self.operators: set[Operator] = set()
        self._loader = loader
        self._models_dir = models_dir
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.AbstractServer | None = None
        self._questions: Mapping[object, Callable[[dict[str, Any]], Awaitable[Answer]]] = {
            "list": self._list,
            "stats": self._list,
            "load": self._load,
            "promote": self._promote,
            "unload": self._unload,
        }

    async def start(self, path: Path) -> None:
        """Listen. If that fails the engine continues without the socket: predictions matter more than changes."""
        try:
            listener = endpoint.bind(path, setting="admin_dir")
        except SettingsError as error:
            logger.error("no admin socket: %s", error)
            return
        self._path = path
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: Operator(self), sock=listener)

    async def close(self) -> None:
        """Close the connections and cancel what is being loaded."""
        if self._server:
            self._path.unlink(missing_ok=True)
            self._server.close()
        for operator in list(self.operators):
            operator.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, meta: dict[str, Any], reply: Callable[[Answer], None]) -> None:
        """Start a command and finish it even if the operator disconnects: half a load would be useless."""

        async def work() -> None:
            reply(await self.answer(meta))

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def answer(self, meta: dict[str, Any]) -> Answer:
        try:
            fields = dict(meta)
            do = fields.pop("do", None)
            question = self._questions.get(do) if isinstance(do, str) else None
            if question is None:
                raise Refused(f"'do' is not known; wanted one of {', '.join(map(str, self._questions))}")
            return {"ok": True, **await question(fields)}
        except (Refused, ModelsError, BundleError, ServiceError) as error:
            logger.info("an operator was refused: %s", error)
            return {"ok": False, "error": str(error)}
        except Exception:
            logger.exception("an operator's question failed")
            return {"ok": False, "error": "it failed; the log of the engine says why"}

    async def _list(self, fields: dict[str, Any]) -> Answer:
        _done(fields)
        return {"models": self._loader.stats()}

    async def _load(self, fields: dict[str, Any]) -> Answer:
        directory, swap = _text(fields, "directory"), _flag(fields, "swap")
        _done(fields)
        bundle, is_new = await self._loader.load(self._below_models_dir(directory), swap)
        return {"name": bundle.name, "version": bundle.version, "digest": bundle.digest, "changed": is_new}

    async def _promote(self, fields: dict[str, Any]) -> Answer:
        name, version, alias = _text(fields, "name"), _text(fields, "version"), _text(fields, "alias", DEFAULT)
        _done(fields)
        self._loader.promote(name, version, alias)
        return {}

    async def _unload(self, fields: dict[str, Any]) -> Answer:
        name, version, last = _text(fields, "name"), _text(fields, "version"), _flag(fields, "last")
        _done(fields)
        await self._loader.unload(name, version, last)
        return {}

    def _below_models_dir(self, text: str) -> Path:
        """`text` names a directory there, with or without the way to it. Links are followed first, then it is asked."""
        if self._models_dir is None:
            raise Refused("nothing can be loaded by hand; set models_dir in engine.yaml")
        try:
            top = self._models_dir.resolve()
            directory = (top / text).resolve()
        except (OSError, RuntimeError, ValueError):
            directory = top = Path("/")
        if top not in directory.parents:
            raise Refused(f"{text!r} is not below {self._models_dir}; put the bundle there first")
        return directory


def _text(fields: dict[str, Any], key: str, default: str | None = None) -> str:
    value = fields.pop(key, default)
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_TEXT or not value.isprintable():
        raise Refused(f"'{key}' does not do; wanted a text of 1 to {_MAX_TEXT} characters")
    return value


def _flag(fields: dict[str, Any], key: str) -> bool:
    value = fields.pop(key, False)
    if not isinstance(value, bool):
        raise Refused(f"'{key}' does not do; wanted true or false")
    return value


def _done(fields: dict[str, Any]) -> None:
    if fields:
        raise Refused(f"the fields {', '.join(sorted(fields))!r} are not known here; leave them out")


class Operator(asyncio.Protocol):
    """One connection, which sends one command after another. A protocol error closes it."""

    def __init__(self, admin: Admin):
        self._admin = admin
        self._reader = FrameReader(max_tensor_bytes=0)
        self._is_asking = False

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        if len(self._admin.operators) >= _MAX_OPERATORS:
            transport.abort()
            return
        self._admin.operators.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._admin.operators.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._ask(frame)
        except FrameError as error:
            logger.warning("an operator's connection closed: %s", error)
            self.abort()

    def pause_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        self._transport.abort()

    def _ask(self, frame: Frame) -> None:
        if frame.type is not Type.ADMIN:
            raise FrameError(f"an operator sent {frame.type.name}")
        if self._is_asking:
            raise FrameError("an operator did not wait for the answer to the question before")
        self._is_asking = True
        self._admin.begin(frame.meta, lambda answer: self._reply(frame.id, answer))

    def _reply(self, request_id: int, answer: Answer) -> None:
        self._is_asking = False
        if not self._transport.is_closing():
            self._transport.writelines(wire.encode(Frame(Type.ADMIN_ANSWER, request_id, answer)))
