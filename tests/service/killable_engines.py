"""Engines as processes of their own that a request can end: real servers around a lamp without torch's start.

One program imports everything once and forks an engine for each name that it reads, so a dead one is back in
milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from bedplate.engine.catalogue import Catalogue
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.server import Server
from bedplate.process import endpoint

from tests.service.engine_tools import GatedLamp
from tests.service.lamp import lamp_logits

DEADLINE_S = 60  # torch's import on a busy machine
POISON = 13.0  # an item with this first number is the end of the process
SLOW = 7.0  # and with this one takes its time
SLOW_S = 0.3


class KillableEngines:
    """Those of `folder`, by their names; `begun` says what was computed, or was about to be."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._begun = folder / "begun"
        self._begun.touch()
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.service.killable_engines", str(folder)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "service")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._pids: dict[str, int] = {}

    def start(self, names: list[str]) -> list[Path]:
        """Have them all run; what was begun before is forgotten. Their sockets."""
        assert self._program.stdin
        assert self._program.stdout
        for name in names:
            if not self._runs(name):
                self._program.stdin.write(f"{name}\n")
                self._program.stdin.flush()
                self._pids[name] = int(self._program.stdout.readline())
        self._begun.write_text("")
        return [self.folder / f"{name}.sock" for name in names]

    def kill(self, name: str) -> None:
        os.kill(self._pids[name], signal.SIGKILL)

    def _runs(self, name: str) -> bool:
        try:
            state = Path(f"/proc/{self._pids[name]}/stat").read_text()
        except (KeyError, OSError):
            return False
        return ") Z " not in state

    def batches(self) -> list[tuple[str, list[float]]]:
        """Engine and first numbers of the items of each batch, in the order in which they were begun."""
        lines = [line.split() for line in self._begun.read_text().splitlines()]
        return [(name, [float(number) for number in numbers]) for name, *numbers in lines]

    def begun(self, first: float) -> int:
        """How often an item with this number was begun."""
        return sum(numbers.count(first) for _, numbers in self.batches())

    async def until_begun(self, first: float) -> str:
        """The engine that has begun such an item."""
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            for name, numbers in self.batches():
                if first in numbers:
                    return name
            await asyncio.sleep(0.002)
        raise AssertionError(f"{first} was not begun within 10 s")

    def close(self) -> None:
        for name in self._pids:
            if self._runs(name):
                self.kill(name)
        assert self._program.stdin
        assert self._program.stdout
        self._program.stdin.close()
        self._program.wait(DEADLINE_S)
        self._program.stdout.close()


@contextlib.contextmanager
def killable_engines(folder: Path) -> Iterator[KillableEngines]:
    engines = KillableEngines(folder)
    try:
        yield engines
    finally:
        engines.close()


class _Lamp(GatedLamp):
    def __init__(self, folder: Path, name: str):
        super().__init__()
        self._begun = folder / "begun"
        self._name = name

    def run(self, items: Any) -> Any:
        firsts = [float(item.flat[0]) for item in np.asarray(items)]
        with self._begun.open("a") as begun:
            begun.write(f"{self._name} {' '.join(map(str, firsts))}\n")
        if POISON in firsts:
            os.kill(os.getpid(), signal.SIGKILL)
        if SLOW in firsts:
            time.sleep(SLOW_S)
        return lamp_logits(items)


def _serve(folder: Path, name: str, ready: int) -> None:
    """One engine, until it is killed."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = Server(Catalogue([_Lamp(folder, name)]), loop, 64, EngineMetrics())  # type: ignore[list-item]
        assert not await server.start()
        await loop.create_unix_server(server.connection, sock=endpoint.bind(folder / f"{name}.sock"))
        os.write(ready, f"{os.getpid()}\n".encode())
        await asyncio.Event().wait()

    uvloop.run(serve())


def main(folder: Path) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    # Not by lines of a buffer, which each child would have a copy of.
    while name := _line(0):
        if not os.fork():
            _serve(folder, name, 1)
            os._exit(0)


def _line(descriptor: int) -> str:
    text = b""
    while (byte := os.read(descriptor, 1)) not in (b"", b"\n"):
        text += byte
    return text.decode()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
