"""Engines on real unix sockets that answer as a test says, and a pool before them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from bedplate import wire
from bedplate.errors import EngineBusy
from bedplate.web.engines.pool import EnginePool
from bedplate.wire import Frame, Type

from tests.service.lamp import description

Answer = Callable[["Peer", Frame], Awaitable[None]]
META = {"model": "lamp", "version": "1", "inputs": []}


class Peer:
    """An engine's end of one connection; `answer` decides what it does with a PREDICT."""

    def __init__(self, answer: Answer):
        self.answer = answer
        self.seen: list[Frame] = []
        self.models = [description()]
        self.aliases: dict[str, dict[str, str]] | None = None
        self.probes = True  # what this release's engines say
        self.alone = True
        self.connections: set[asyncio.Task[None] | None] = set()
        self.writer: asyncio.StreamWriter

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.connections.add(asyncio.current_task())
        frames = wire.FrameReader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                for frame in frames.feed(data):
                    await self.take(frame)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def take(self, frame: Frame) -> None:
        if frame.type is Type.DESCRIBE:
            self.describe(frame.id)
        else:
            self.seen.append(frame)
            if frame.type is Type.PREDICT:
                await self.answer(self, frame)

    def describe(self, request_id: int = 0) -> None:
        aliases = {} if self.aliases is None else {"aliases": self.aliases}
        knows = {"probes": self.probes, "alone": self.alone}
        self.send(Frame(Type.DESCRIPTION, request_id, {"models": self.models, **knows, **aliases}))

    def send(self, frame: Frame) -> None:
        self.writer.writelines(wire.encode(frame))


async def right(peer: Peer, frame: Frame) -> None:
    peer.send(Frame(Type.RESULT, frame.id, {"echo": frame.meta["model"]}, frame.tensors))


async def silence(peer: Peer, frame: Frame) -> None:
    pass


async def vanish(peer: Peer, frame: Frame) -> None:
    peer.writer.transport.abort()


async def begin_and_vanish(peer: Peer, frame: Frame) -> None:
    """As an engine that says which request it computed last."""
    if frame.meta.get("alone"):
        peer.send(Frame(Type.BEGUN, frame.id, {}))
        await peer.writer.drain()
    peer.writer.close()


async def vanish_in_the_middle(peer: Peer, frame: Frame) -> None:
    whole = b"".join(bytes(piece) for piece in wire.encode(Frame(Type.RESULT, frame.id, {}, b"12345678")))
    peer.writer.write(whole[:-3])
    await peer.writer.drain()
    peer.writer.close()


async def garbage(peer: Peer, frame: Frame) -> None:
    peer.writer.write(b"HTTP/1.1 200 OK\r\n\r\n" * 4)


def busy_for(retry_after_s: int) -> Answer:
    async def answer(peer: Peer, frame: Frame) -> None:
        refusal = EngineBusy("full", value=64, limit=64, retry_after_s=retry_after_s)
        peer.send(Frame(Type.ERROR, frame.id, refusal.to_meta()))

    return answer


async def unloaded(peer: Peer, frame: Frame) -> None:
    """The version has gone, and this is the first that its web hears of it."""
    peer.models = [description(version="2")]
    peer.send(Frame(Type.ERROR, frame.id, {"code": "unknown-model", "detail": "not loaded"}))


async def draining(peer: Peer, frame: Frame) -> None:
    peer.send(Frame(Type.ERROR, frame.id, {"code": "draining", "detail": "stopping"}))


def run(
    tmp_path: Any,
    answers: list[Answer],
    check: Callable[[EnginePool, list[Peer]], Awaitable[None]],
    on_retry: Callable[[str], None] = lambda reason: None,
) -> None:
    """Start one engine per answer, hand the pool to `check`, and close everything."""

    async def main() -> None:
        peers = [Peer(answer) for answer in answers]
        paths = [tmp_path / f"cpu{n}.sock" for n in range(len(peers))]
        pairs = zip(peers, paths, strict=True)
        servers = [await asyncio.start_unix_server(peer.serve, path) for peer, path in pairs]
        pool = EnginePool(paths, on_retry)
        try:
            await asyncio.wait_for(check(pool, peers), 10)
        finally:
            pool.close()
            for server in servers:
                server.close()
            await asyncio.gather(*(task for peer in peers for task in peer.connections if task), return_exceptions=True)

    # The loop of production: its transports are of other classes than asyncio's.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
