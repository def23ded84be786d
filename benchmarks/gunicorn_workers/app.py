"""The application that both workers serve: reads the body, answers JSON, and says READY itself once it is imported."""

import asyncio
import os
import socket
import time
from pathlib import Path

import falcon.asgi

time.sleep(float(os.environ.get("BENCH_IMPORT_S", "0")))  # stands for a slow import
if os.environ.get("BENCH_BROKEN"):
    raise RuntimeError("this import always fails")

# Where the last request to /watch writes what became of its client.
WATCH_FILE = Path("/run/bench/watch")


def notify(state: str) -> None:
    address = os.environ.get("BENCH_NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            sock.send(state.encode())


class Ready:
    async def process_startup(self, scope, event):
        notify("READY=1")


class Predict:
    async def on_post(self, req, resp):
        body = await req.stream.read()
        resp.media = {"bytes": len(body), "predictions": [{"label": "7", "score": 0.9}]}


class Slow:
    async def on_post(self, req, resp, seconds):
        await req.stream.read()
        await asyncio.sleep(float(seconds))
        resp.media = {"slept_s": float(seconds)}


service = falcon.asgi.App(middleware=[Ready()])
service.add_route("/predict", Predict())
service.add_route("/slow/{seconds}", Slow())


async def app(scope, receive, send):
    """Falcon, and one route below it: /watch waits for the server to say that the client has gone."""
    if scope["type"] != "http" or scope["path"] != "/watch":
        return await service(scope, receive, send)
    WATCH_FILE.write_text("waiting")
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
        WATCH_FILE.write_text(f"told {time.monotonic()}")
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        WATCH_FILE.write_text(WATCH_FILE.read_text() + f" cancelled {time.monotonic()}")
        raise
