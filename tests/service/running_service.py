"""The service as `bedplate serve` runs it, all programs, around the lamp."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.service.decoder_tools import RunningDecoder, running_decoder
from tests.service.engine_tools import write_lamp

START_S = 60  # torch on a busy machine
STOP_S = 60
KEY = "bp_running-service"
SERVICE = Path(__file__).parents[2] / "service"


@dataclass(frozen=True)
class RunningService:
    port: int
    pid: int  # of `bedplate serve`
    key: str = KEY

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def web_rss_bytes(self) -> int:
        """Memory of the front end's worker."""
        [web] = _children(self.pid, " web ")
        [worker] = _children(web, "")
        return rss_bytes(worker)


@contextlib.contextmanager
def running_service(
    folder: Path, port: int = 0, bundle: Path | None = None, beside: Sequence[Path] = ()
) -> Iterator[RunningService]:
    """Serve the lamp from `folder`, or other bundles, all programs; on a free port unless one is given."""
    port = port or _free_port()
    bundle = bundle or write_lamp(folder / "lamp")
    with _program(folder, port, "serve", bundle, *beside, "--port", port) as program:
        yield RunningService(port, program.pid)


@contextlib.contextmanager
def running_web(folder: Path, decoder: RunningDecoder | None = None, **settings: Any) -> Iterator[int]:
    """A front end and a decoder, with an engine that listens on cpu0.sock in `folder`; yields its port."""
    port = _free_port()
    keys = [{"client": "tests", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]
    (folder / "api-keys").write_text(json.dumps(keys))
    with contextlib.nullcontext(decoder) if decoder else running_decoder() as decodes:
        files = {
            "engines": [f"{folder}/cpu0.sock"],
            "decoders": [str(decodes.path)],
            "api_keys_file": f"{folder}/api-keys",
        }
        (folder / "web.yaml").write_text(yaml.safe_dump(files | settings))
        with _program(folder, port, "web", "--settings", folder / "web.yaml", "--bind", f"127.0.0.1:{port}"):
            yield port


@contextlib.contextmanager
def _program(folder: Path, port: int, *arguments: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`bedplate` with these arguments, from when it is ready until it is stopped."""
    with (folder / "service.log").open("w") as log:
        program = subprocess.Popen(
            [sys.executable, "-m", "bedplate", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(SERVICE), "BEDPLATE_API_KEY": KEY, "TMPDIR": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/health/ready", program, folder / "service.log")
        yield program
    finally:
        program.send_signal(signal.SIGTERM)
        program.wait(STOP_S)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_until_ready(url: str, program: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while program.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    raise AssertionError(f"ended, or not ready after {START_S} s:\n{log.read_text()}")


def _children(parent: int, said: str) -> list[int]:
    """Processes of `parent` with `said` in their command line."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if said in line]


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
