"""An engine that operators reach: real bundles, real sockets, everything but the process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import uvloop
from bedplate.commands import models as models_command
from bedplate.engine.admin import Admin
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.model import Model
from bedplate.engine.settings import EngineSettings
from bedplate.engine.start import start
from bedplate.process import endpoint

from tests.service.engine_tools import DEADLINE_S, WEIGHTS, Peer, write_lamp


def write_version(models: Path, version: str, **changes: Any) -> Path:
    """A lamp whose logits are its version times those of version 1."""
    factor = float(version) if version.isdigit() else 1.0
    weights = {name: tensor * factor for name, tensor in WEIGHTS.items()}
    return write_lamp(models / "lamp" / version, **{"weights": weights, "version": version, **changes})


class ServingEngine:
    """Serves models/lamp/1 and is asked at `web` and `admin`."""

    def __init__(self, folder: Path, **settings: Any):
        self.models = folder / "models"
        write_version(self.models, "1")
        self.web, self.admin = folder / "cpu0.sock", folder / "admin" / "cpu0.sock"
        self.admin.parent.mkdir()
        self._settings = EngineSettings(
            **{"socket_dir": folder, "bundles": (self.models / "lamp" / "1",), "models_dir": self.models, **settings}
        )
        self.gave_up = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.metrics = EngineMetrics()
        self.server, self.loader = await start(
            self._settings, "cpu0", torch.device("cpu"), self.metrics, self.gave_up.set, Model.load
        )
        listener = await self.loop.create_unix_server(self.server.connection, sock=endpoint.bind(self.web))
        admin = Admin(self.loader, self._settings.models_dir)
        await admin.start(self.admin)
        self.operators = admin.operators
        self._ready.set()
        await self._stop.wait()
        listener.close()
        await admin.close()
        await self.server.drain(flush_s=0.1)
        self.loader.close()

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer, or {"ok": False, "error"}."""
        try:
            return models_command.ask(self.admin, question, DEADLINE_S)
        except models_command.EngineError as error:
            return {"ok": False, "error": str(error)}

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def loaded(self) -> dict[str, list[str]]:
        """Version → aliases."""
        return {model["version"]: model["aliases"] for model in self.ask(do="list")["models"]}

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    @contextlib.contextmanager
    def held_device(self) -> Iterator[Future[None]]:
        """The device computes nothing meanwhile; what is yielded is done when it goes on."""
        begun, gate = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            assert gate.wait(DEADLINE_S)

        holding = self.server.batcher.execute(wait)
        assert begun.wait(DEADLINE_S)
        try:
            yield holding
        finally:
            gate.set()


@contextlib.contextmanager
def serving_engine(folder: Path, **settings: Any) -> Iterator[ServingEngine]:
    engine = ServingEngine(folder, **settings)
    try:
        yield engine
    finally:
        engine.stop()


@contextlib.contextmanager
def connected(engine: ServingEngine) -> Iterator[Peer]:
    peer = Peer(engine.web)
    try:
        yield peer
    finally:
        peer.leave()
