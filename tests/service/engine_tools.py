"""A lamp bundle with real weights, a model that waits to be let on, and both ends of an engine's socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvloop
import yaml
from bedplate import wire
from bedplate.bundle.bundle import Bundle, write_manifest
from bedplate.engine.catalogue import Catalogue
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.server import Server
from bedplate.process import endpoint
from bedplate.wire import Frame, FrameReader, Type
from safetensors.torch import save_file

from tests.service.lamp import description, lamp_logits
from tests.service.text_tools import TOKENIZERS

DEADLINE_S = 10  # for what should take milliseconds
NETWORK = ["flatten", {"linear": {"in_features": 4, "out_features": 2}}]
WEIGHTS = {"1.weight": torch.tensor([[-0.25] * 4, [0.25] * 4]), "1.bias": torch.zeros(2)}


def write_lamp(directory: Path, weights: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    """A complete bundle whose network computes what `lamp_logits` computes."""
    return write_bundle(
        directory, WEIGHTS if weights is None else weights, description(**{"network": NETWORK, **changes})
    )


def write_bundle(directory: Path, weights: dict[str, torch.Tensor], document: dict[str, Any]) -> Path:
    """What the `description` of a bundle says, as the directory that it is of."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / document["canary"]["file"]).write_bytes(base64.b64decode(document.pop("canary_bytes")))
    if "expect_bytes" in document:
        (directory / document["canary"]["expect"]).write_bytes(base64.b64decode(document.pop("expect_bytes")))
    if "tokenizer_sha256" in document:
        (directory / document["inputs"][0]["text"]["tokenizer"]).write_bytes(
            TOKENIZERS[document.pop("tokenizer_sha256")]
        )
    if "codec_bytes" in document:
        (directory / document["codec"]).write_bytes(base64.b64decode(document.pop("codec_bytes")))
    del document["digest"]
    (directory / "bundle.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(document))))
    save_file(weights, directory / "weights.safetensors")
    write_manifest(directory)
    return directory


class GatedLamp:
    """Stands where a Model stands; says when the device has begun, and works when the gate is open."""

    def __init__(self, name: str = "lamp", is_open: bool = True, **changes: Any):
        self.bundle = Bundle.from_description(description(**{"name": name, **changes}))
        self.max_items = self.bundle.max_items
        self.max_cost = self.bundle.max_cost
        self.overlaps = False
        self.weights_bytes = 40
        self.form = "float32"
        self.begun: queue.SimpleQueue[Any] = queue.SimpleQueue()  # inputs of each batch, (items, 1, 2, 2)
        self.gate = threading.Event()
        if is_open:
            self.gate.set()
        self.fault: Exception | None = None

    def warm_up_inputs(self) -> list[Any]:
        return []

    def run(self, items: Any) -> Any:
        self.begun.put(items)
        assert self.gate.wait(DEADLINE_S)
        if self.fault:
            raise self.fault
        return lamp_logits(items)


def bright(items: int = 1, value: float = 1.0) -> Any:
    return np.full((items, 1, 2, 2), value, np.float32)


class Peer:
    """A web process, as far as an engine can tell. Blocking; every wait has a deadline."""

    def __init__(self, path: Path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_S)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._reader = FrameReader()
        self._frames: list[Frame] = []

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send(self, frame: Frame) -> None:
        self.send_raw(raw(frame))

    def predict(self, request_id: int, items: Any, deadline_ns: int = 0, **changes: Any) -> None:
        self.send(predict_frame(request_id, items, deadline_ns, **changes))

    def receive(self) -> Frame:
        while not self._frames:
            data = self._socket.recv(65536)
            assert data, "the engine closed the connection"
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def is_closed_by_engine(self) -> bool:
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def is_not_read(self, data: bytes) -> bool:
        """True if the engine has stopped taking what is sent."""
        self._socket.setblocking(False)
        try:
            self._socket.sendall(data)
        except BlockingIOError:
            return True
        return False

    def hears_nothing(self) -> bool:
        """True if no answer lies in the socket right now."""
        self._socket.setblocking(False)
        try:
            return not self._frames and not self._socket.recv(1)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(DEADLINE_S)

    def leave(self) -> None:
        self._socket.close()


def predict_frame(request_id: int, items: Any, deadline_ns: int = 0, **changes: Any) -> Frame:
    declared = {"name": "image", "dtype": "float32", "shape": list(items.shape)}
    meta = {"model": "lamp", "version": None, "inputs": [declared], **changes}
    return Frame(Type.PREDICT, request_id, meta, items.tobytes(), deadline_ns)


def raw(frame: Frame) -> bytes:
    return b"".join(bytes(piece) for piece in wire.encode(frame))


def logits_of(frame: Frame) -> Any:
    assert frame.type is Type.RESULT, frame.meta
    return np.frombuffer(frame.tensors, np.float32).reshape(frame.meta["outputs"][0]["shape"])


class RunningEngine:
    """A server on a real socket, in a thread of its own."""

    def __init__(self, path: Path, models: list[Any], queue_limit: int):
        self.path = path
        self._models = models
        self._queue_limit = queue_limit
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))
        self._thread.start()
        assert self._listening.wait(DEADLINE_S)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.metrics = EngineMetrics()
        self.server = Server(Catalogue(self._models), self.loop, self._queue_limit, self.metrics)
        assert not await self.server.start()
        listener = await self.loop.create_unix_server(self.server.connection, sock=endpoint.bind(self.path))
        self._listening.set()
        await self._stop.wait()
        listener.close()
        await self.server.drain(flush_s=0.1)

    def begin_drain(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def running_engine(path: Path, *models: Any, queue_limit: int = 64) -> Iterator[RunningEngine]:
    engine = RunningEngine(path, list(models), queue_limit)
    try:
        yield engine
    finally:
        for model in models:
            if isinstance(model, GatedLamp):
                model.gate.set()
        with contextlib.suppress(RuntimeError):
            engine.begin_drain()
        engine.join()


def wait_until(condition: Any) -> None:
    """Poll `condition`; for what has no event to wait on."""
    patience = threading.Event()
    for _ in range(DEADLINE_S * 1000):
        if condition():
            return
        patience.wait(0.001)
    raise AssertionError(f"not true within {DEADLINE_S} s")
