"""Bedplate: the programs that a host runs, with its settings, asked with an API key by the Open Inference Protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.engine.stack import ROOT, Stack, scratch, stack
from benchmarks.engine.supervisor import Unit
from benchmarks.peers import environment
from benchmarks.peers.bedplate.bundle import MAX_ITEMS, write_bundle
from benchmarks.peers.cases import Case, Dialect
from benchmarks.peers.checking import wait_until_ready
from benchmarks.peers.peer import START_S, Peer, Running, Setup
from benchmarks.peers.processes import Tree

WEBS = 2
WEB_SETTINGS = {"request_timeout_s": 30.0, "cache_ttl_s": 0}
# As roles/bedplate has them, but for the queue: 256 clients may wait.
ENGINE_SETTINGS = {"threads": 1, "queue_limit": 1024, "pin": False}


@contextlib.contextmanager
def _start(setup: Setup, case: Case, port: int, deadline_ms: float) -> Iterator[Running]:
    with scratch() as folder, served(write_bundle(folder / "bundles", case), setup, case, port, deadline_ms) as server:
        yield server


@contextlib.contextmanager
def served(
    bundle: Path, setup: Setup, case: Case, port: int, deadline_ms: float = 0, **engine_settings: Any
) -> Iterator[Running]:
    """Answers rightly when entered; nothing of it runs afterwards."""
    python = str(environment.python_of("bedplate"))
    with scratch() as folder:
        model = ("bundle",) if case.model.is_json else ("weighted",)
        engines = {
            "engines": setup.workers,
            "webs": 0,
            "engine_settings": ENGINE_SETTINGS | engine_settings,
            "web_settings": WEB_SETTINGS,
        }
        with stack([bundle], model, folder=folder, python=python, **engines) as running, _webs(running, python, port):
            headers = {"Authorization": f"Bearer {running.key}"}
            if deadline_ms:
                headers["X-Request-Timeout-Ms"] = str(round(deadline_ms))
            units = (*running.engines, *running.webs)
            server = Running(
                port,
                f"/v2/models/{case.model.name}/infer",
                Dialect(headers, protocol=True),
                Tree([unit.pid for unit in units if unit.pid]),
            )
            try:
                wait_until_ready(
                    case, server.dialect, port, server.path, START_S, lambda: all(unit.pid for unit in units)
                )
            except TimeoutError as error:
                raise TimeoutError(f"{error}\n{''.join(unit.log.read_text()[-1500:] for unit in units)}") from None
            yield server


@contextlib.contextmanager
def _webs(running: Stack, python: str, port: int) -> Iterator[None]:
    """On one port, as systemd opens sockets that say ReusePort=yes: the kernel deals connections out among the webs."""
    command = [python, "-m", "benchmarks.peers.bedplate.listen", str(port), python, "-m", "bedplate", "web"]
    variables = {"PYTHONPATH": f"{ROOT / 'service'}:{ROOT}"}
    cores = set(range(environment.cores()))
    running.webs = [
        Unit(
            f"web{number}",
            [*command, "--settings", f"{running.folder}/web.yaml", "--instance", str(number)],
            running.folder,
            variables,
            cores,
        )
        for number in range(1, WEBS + 1)
    ]
    for web in running.webs:
        web.start()
    # The stack stops them, before the engines that they drain into.
    for web in running.webs:
        web.wait_until_ready(START_S)
    yield


def _says(engines: int, max_items: int) -> str:
    return f"{WEBS} webs, {engines} engine{'s' if engines > 1 else ''} of 1 thread, batches up to {max_items}, no wait"


PEER = Peer(
    "bedplate",
    "Bedplate",
    {
        name: [Setup(_says(engines, MAX_ITEMS[name]), workers=engines)]
        for name, engines in (("tiny", 1), ("cnn", 2), ("transformer", 2))
    },
    path=lambda model: f"/v2/models/{model.name}/infer",
    start=_start,
)
