"""One request over a connection, with and without the direct way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re

from bedplate.web.http.connection import Connection, Listener


def request_of(body, path, headers, method="POST"):
    lines = {"Host": "x", "X-Request-ID": "abc", "Content-Length": str(len(body)), **headers}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode() + b"\r\n" + body


def no_direct(exchange):
    return False


@contextlib.asynccontextmanager
async def served(app, direct):
    """Where to connect to."""
    loop = asyncio.get_running_loop()
    listener = Listener(app, direct, idle_s=5, receive_s=5, max_connections=8)
    server = await loop.create_server(lambda: Connection(listener, loop), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()
    finally:
        server.close()


async def sent(app, direct, request):
    async with served(app, direct) as address:
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(request)
            return await whole_answer(reader)
        finally:
            writer.close()


async def whole_answer(reader):
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = int(re.search(rb"(?im)^content-length: (\d+)", head)[1])
    return head, await asyncio.wait_for(reader.readexactly(length), 5)


def parsed(answer, ignore):
    status, *lines = answer[0].strip().split(b"\r\n")
    fields = sorted((name.lower(), value.lower()) for name, _, value in (line.partition(b": ") for line in lines))
    return status, [field for field in fields if field[0] not in ignore], answer[1]


async def left_to_the_collector(app, direct, requests):
    """Names of our classes whose objects only the collector would free, after these requests were answered at once."""

    async def burst():
        async with served(app, direct) as address:
            clients = [await asyncio.open_connection(*address) for _ in requests]
            for (_, writer), request in zip(clients, requests, strict=True):
                writer.write(request)
            for reader, writer in clients:
                await whole_answer(reader)
                writer.close()

    # The first of all is asked alone, and says how quick the model is: later ones are asked together.
    await burst()
    await burst()
    gc.collect()
    gc.disable()
    try:
        await burst()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return {type(one).__name__ for one in gc.garbage if type(one).__module__.startswith("bedplate.web")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
