"""Engines and webs as real programs on this machine, supervised, in a scratch folder that goes away with them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.engine.supervisor import Unit

ROOT = Path(__file__).parents[2]
START_S = 120.0


@dataclass
class Stack:
    folder: Path
    key: str
    ports: list[int]
    engines: list[Unit]
    decoders: list[Unit]
    webs: list[Unit]

    def socket(self, engine: int = 0) -> Path:
        return self.folder / f"cpu{engine}.sock"

    def admin_socket(self, engine: int = 0) -> Path:
        return self.folder / "admin" / f"cpu{engine}.sock"

    def is_ready(self, port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        for unit in (*self.engines, *self.decoders, *self.webs):
            unit.wait_until_ready(START_S)
        give_up = time.monotonic() + START_S
        while not all(map(self.is_ready, self.ports)):
            if time.monotonic() > give_up:
                raise TimeoutError("the webs do not say ready")
            time.sleep(0.1)


def admin_settings(folder: Path) -> dict[str, Any]:
    """Of an engine that operators may talk to."""
    (folder / "admin").mkdir()
    return {"admin_dir": str(folder / "admin"), "models_dir": str(folder)}


def cores_for_programs() -> set[int]:
    """All but the one that the load keeps to, where there is more than one."""
    available = set(range(os.cpu_count() or 1))
    return available - os.sched_getaffinity(0) or available


@contextlib.contextmanager
def stack(
    bundles: Sequence[Path],
    model: Sequence[str] = ("sleeping",),
    *,
    folder: Path,
    engines: int = 1,
    webs: int = 1,
    watchdog_s: float = 60,
    cores: set[int] | None = None,
    web_settings: dict[str, Any] | None = None,
    engine_settings: dict[str, Any] | None = None,
    python: str = sys.executable,
) -> Iterator[Stack]:
    """Ready when entered; nothing of it runs afterwards.

    Args:
        model: what program.py takes after --model.
        cores: that the programs keep to; without it all but the load's.
        python: that the programs run in.
    """
    key = "bp_" + secrets.token_urlsafe(32)
    ports = [_free_port() for _ in range(webs)]
    _write_settings(folder, bundles, engines, key, web_settings or {}, engine_settings or {})
    environment = {"PYTHONPATH": f"{ROOT / 'service'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    kept = cores or cores_for_programs()

    def unit(name: str, *command: str, watchdog_s: float | None = None) -> Unit:
        return Unit(name, [python, "-m", *command], folder, environment, kept, watchdog_s)

    program = ("benchmarks.engine.program", "--settings", f"{folder}/engine.yaml", "--model", *model)
    web = ("bedplate", "web", "--settings", f"{folder}/web.yaml", "--bind")
    decode = ("bedplate", "decode", "--settings", f"{folder}/decode.yaml", "--instance")
    running = Stack(
        folder,
        key,
        ports,
        [unit(f"cpu{n}", *program, "--device", f"cpu{n}", watchdog_s=watchdog_s) for n in range(engines)],
        [unit("decode1", *decode, "1")],
        [unit(f"web{n}", *web, f"127.0.0.1:{port}", "--instance", str(n)) for n, port in enumerate(ports, 1)],
    )
    try:
        for started in (*running.engines, *running.decoders, *running.webs):
            started.start()
        running.wait_until_ready()
        yield running
    finally:
        # Webs first: they drain into living engines.
        for stopped in (*running.webs, *running.decoders, *running.engines):
            stopped.stop()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    # Short: a unix socket's path has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="bp-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def _write_settings(
    folder: Path, bundles: Sequence[Path], engines: int, key: str, web: dict[str, Any], engine: dict[str, Any]
) -> None:
    keys = [{"client": "benchmark", "sha256": hashlib.sha256(key.encode()).hexdigest()}]
    (folder / "api-keys").write_text(json.dumps(keys))
    (folder / "metrics").mkdir()
    engine = {
        "socket_dir": str(folder),
        "bundles": list(map(str, bundles)),
        "metrics_dir": f"{folder}/metrics",
        "pin": False,  # cores are given by whoever starts the programs
        **engine,
    }
    web = {
        "engines": [f"{folder}/cpu{n}.sock" for n in range(engines)],
        "decoders": [f"{folder}/1/decode.sock"],
        "api_keys_file": f"{folder}/api-keys",
        "metrics_dir": f"{folder}/metrics",
        "cache_ttl_s": 0,
        "request_timeout_s": 0.5,
        **web,
    }
    (folder / "engine.yaml").write_text(yaml.safe_dump(engine))
    (folder / "decode.yaml").write_text(yaml.safe_dump({"socket_dir": str(folder)}))
    (folder / "web.yaml").write_text(yaml.safe_dump(web))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
