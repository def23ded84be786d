"""The other end of an engine's sockets: a web that only asks, and an operator."""

from __future__ import annotations

import itertools
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bedplate import wire
from bedplate.wire import Frame, FrameReader, Type

from benchmarks.engine.bundles import Array

_TIMEOUT_S = 120.0


class Peer:
    """One blocking connection."""

    def __init__(self, path: Path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.connect(str(path))
        self._reader = FrameReader()
        self._frames: list[Frame] = []

    def send(self, frame: Frame) -> None:
        self.send_all([frame])

    def send_all(self, frames: Iterable[Frame]) -> None:
        # In one write, as a web does: the engine wakes up for each.
        self._socket.sendall(b"".join(piece for frame in frames for piece in wire.encode(frame)))

    def receive(self) -> Frame:
        while not self._frames:
            self._read()
        return self._frames.pop(0)

    def receive_all(self) -> list[Frame]:
        """The answers that have come, at least one."""
        while not (answers := [frame for frame in self._frames if frame.type is Type.RESULT]):
            self._read()
        self._frames = []
        return answers

    def _read(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the engine closed the connection")
        self._frames += self._reader.feed(data)

    def close(self) -> None:
        self._socket.close()


class Refused(Exception):
    """The engine answered with an error."""


class Operator:
    """Asks one thing after another on an admin socket."""

    def __init__(self, path: Path):
        self._peer = Peer(path)
        self._id = 0

    def load(self, directory: Path) -> dict[str, Any]:
        return self._ask({"do": "load", "directory": str(directory)})

    def promote(self, name: str, version: str, alias: str = "default") -> dict[str, Any]:
        return self._ask({"do": "promote", "name": name, "version": version, "alias": alias})

    def unload(self, name: str, version: str) -> dict[str, Any]:
        return self._ask({"do": "unload", "name": name, "version": version})

    def close(self) -> None:
        self._peer.close()

    def _ask(self, meta: dict[str, Any]) -> dict[str, Any]:
        self._id += 1
        self._peer.send(Frame(Type.ADMIN, self._id, meta))
        while True:
            answer = self._peer.receive()
            if answer.id != self._id:
                continue
            if answer.type is not Type.ADMIN_ANSWER or not answer.meta.get("ok"):
                raise Refused(f"{meta}: {answer.meta}")
            return answer.meta


def predict_frame(request_id: int, model: str, item: Array) -> Frame:
    declared = {"name": "image", "dtype": "float32", "shape": list(item.shape)}
    meta = {"model": model, "version": "1", "inputs": [declared]}
    return Frame(Type.PREDICT, request_id, meta, item.data.cast("B"))


def keep_busy(path: Path, model: str, item: Array, outstanding: int, seconds: float) -> tuple[float, Counter[int]]:
    """Always `outstanding` requests of one item each: answers per second, and batches by size.

    Counted from the end of the second batch to the end of the last one: parts of a batch would not be comparable.
    """
    peer = Peer(path)
    numbers = itertools.count(1)
    for _ in range(outstanding):
        peer.send(predict_frame(next(numbers), model, item))
    for _ in range(2):
        _one_batch(peer, numbers, model, item)
    sizes: Counter[int] = Counter()
    started = time.perf_counter()
    while (took_s := time.perf_counter() - started) < seconds:
        sizes[_one_batch(peer, numbers, model, item)] += 1
    peer.close()
    return sum(size * batches for size, batches in sizes.items()) / took_s, sizes


def _one_batch(peer: Peer, numbers: Iterator[int], model: str, item: Array) -> int:
    """Take the answers of a batch, which come one after another, ask for as many more, and tell how many."""
    left = size = _answer(peer).meta["batch_items"]
    while True:
        peer.send(predict_frame(next(numbers), model, item))
        left -= 1
        if not left:
            return int(size)
        _answer(peer)


def _answer(peer: Peer) -> Frame:
    while (answer := peer.receive()).type is Type.DESCRIPTION:
        pass
    if answer.type is not Type.RESULT:
        raise Refused(str(answer.meta))
    return answer
