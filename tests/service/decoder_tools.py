"""Decoders as systemd runs them, for tests: the real program, on a socket of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SERVICE = Path(__file__).parents[2] / "service"
START_S = 30
STOP_S = 30


@contextlib.contextmanager
def running_decoder(instance: int = 1, **settings: Any) -> Iterator[RunningDecoder]:
    # A short path: a socket's has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="bp-") as name:
        folder = Path(name)
        (folder / "decode.yaml").write_text(yaml.safe_dump({"socket_dir": name, **settings}))
        command = [sys.executable, "-m", "bedplate", "decode", "--settings", f"{name}/decode.yaml"]
        with (folder / "log").open("w") as log:
            program = subprocess.Popen(
                [*command, "--instance", str(instance)], env={**os.environ, "PYTHONPATH": str(SERVICE)}, stderr=log
            )
        decoder = RunningDecoder(folder / str(instance) / "decode.sock", program, folder / "log")
        try:
            decoder.wait_until_it_answers()
            yield decoder
        finally:
            program.send_signal(signal.SIGTERM)
            program.wait(STOP_S)
            decoder.log_at_end = decoder.log


class RunningDecoder:
    def __init__(self, path: Path, program: subprocess.Popen[bytes], log: Path):
        self.path = path
        self.program = program
        self._log = log
        self.log_at_end = ""

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else self.log_at_end

    def child(self) -> int:
        """The process that decodes; a moment passes between one and the next."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if listed := Path(f"/proc/{self.program.pid}/task/{self.program.pid}/children").read_text():
                return int(listed)
            time.sleep(0.001)
        raise AssertionError(f"no process decodes:\n{self.log}")

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_S
        while self.program.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.path))
                return
            time.sleep(0.02)
        raise AssertionError(f"the decoder ended, or does not listen after {START_S} s:\n{self.log}")
