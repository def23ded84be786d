"""As much of systemd as a unit of the engine gets: READY, a watchdog, and a new start a second after every death."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# As roles/bedplate sets it.
RESTART_S = 1.0
# TimeoutAbortSec= is longer there; a stopped engine does not write a core here.
ABORT_S = 1.0
STOP_S = 20.0
# How often a thread looks whether it is to end; a death and a message wake it at once.
_LOOK_S = 0.5


@dataclass
class Watchdog:
    """When a program that said it lives, and then did not, is to be signalled."""

    limit_s: float | None
    fed_at: float | None = None  # None until the program was ready
    aborted_at: float | None = None
    noticed: bool = field(default=False, init=False)

    def fed(self, now: float) -> None:
        self.fed_at = now

    def signal_due(self, now: float) -> signal.Signals | None:
        """SIGABRT once when the limit has passed, SIGKILL when that did not help."""
        if self.limit_s is None or self.fed_at is None:
            return None
        if self.aborted_at is None:
            if now - self.fed_at < self.limit_s:
                return None
            self.noticed = True
            self.aborted_at = now
            return signal.SIGABRT
        return signal.SIGKILL if now - self.aborted_at >= ABORT_S else None

    def wait_s(self, now: float) -> float:
        """Until something may be due."""
        if self.limit_s is None or self.fed_at is None:
            return _LOOK_S
        due = self.fed_at + self.limit_s if self.aborted_at is None else self.aborted_at + ABORT_S
        return min(_LOOK_S, max(0.0, due - now))


@dataclass
class Life:
    """One run of a program; moments on the monotonic clock."""

    started: float
    pid: int
    torch_import_s: float | None = None
    ready: float | None = None
    watchdog_at: float | None = None  # when the watchdog lost patience
    died: float | None = None
    status: int | None = None


class Unit:
    """A program that is started again whenever it ends, until `stop`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        cores: set[int],
        watchdog_s: float | None = None,
    ):
        self.name = name
        self.lives: list[Life] = []
        self.log = folder / f"{name}.log"
        self._command = [*_wrapping(cores), *command]
        self._watchdog_s = watchdog_s
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._notified.bind(str(folder / f"{name}.notify"))
        self._environment = {**os.environ, **environment, "NOTIFY_SOCKET": str(folder / f"{name}.notify")}
        if watchdog_s:
            self._environment["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._notified.close()

    @property
    def pid(self) -> int | None:
        """Of the living program."""
        life = self.lives[-1] if self.lives else None
        return life.pid if life and life.died is None else None

    @property
    def ready(self) -> bool:
        return bool(self.lives) and self.lives[-1].died is None and self.lives[-1].ready is not None

    def signal(self, number: signal.Signals) -> float:
        """Send it and tell when."""
        moment = time.monotonic()
        if self.pid is None:
            raise RuntimeError(f"{self.name} does not run")
        os.kill(self.pid, number)
        return moment

    def wait_until_ready(self, timeout_s: float = 120, lives: int = 1) -> None:
        """Until the `lives`-th run or a later one is ready."""
        give_up = time.monotonic() + timeout_s
        while not (self.ready and len(self.lives) >= lives):
            if time.monotonic() > give_up:
                raise TimeoutError(f"{self.name} not ready after {timeout_s} s:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self.log.open("ab") as log:
                # Its end ends the program too, should this process be killed: the thread that started it is gone then.
                process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
            life = Life(time.monotonic(), process.pid)
            self.lives.append(life)
            self._watch(process, life)
            self._stopping.wait(RESTART_S)

    def _watch(self, process: subprocess.Popen[bytes], life: Life) -> None:
        watchdog = Watchdog(self._watchdog_s)
        ended = os.pidfd_open(process.pid)
        try:
            while not select.select([ended], [], [], 0)[0]:
                if self._stopping.is_set():
                    _terminate(process, ended)
                    break
                select.select([ended, self._notified], [], [], watchdog.wait_s(time.monotonic()))
                self._listen(life, watchdog)
                self._bite(process, life, watchdog)
        finally:
            os.close(ended)
        life.died = time.monotonic()
        life.status = process.wait()

    def _listen(self, life: Life, watchdog: Watchdog) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                for line in self._notified.recv(4096).decode().splitlines():
                    self._hear(line, life, watchdog)

    def _hear(self, line: str, life: Life, watchdog: Watchdog) -> None:
        now = time.monotonic()
        if line == "READY=1":
            life.ready = now
        if line in ("READY=1", "WATCHDOG=1"):
            watchdog.fed(now)
        if line.startswith("X_TORCH_IMPORT_S="):
            life.torch_import_s = float(line.partition("=")[2])

    def _bite(self, process: subprocess.Popen[bytes], life: Life, watchdog: Watchdog) -> None:
        due = watchdog.signal_due(time.monotonic())
        if due is None:
            return
        if due is signal.SIGABRT:
            life.watchdog_at = time.monotonic()
            print(f"{self.name}: the watchdog lost patience", file=sys.stderr)
        os.kill(process.pid, due)
        # As systemd does: a stopped program does not act on any other signal.
        os.kill(process.pid, signal.SIGCONT)


def _wrapping(cores: set[int]) -> list[str]:
    listed = ",".join(map(str, sorted(cores)))
    return ["setpriv", "--pdeathsig", "KILL", "prlimit", "--core=0", "taskset", "-c", listed]


def _terminate(process: subprocess.Popen[bytes], ended: int) -> None:
    process.terminate()
    os.kill(process.pid, signal.SIGCONT)
    if not select.select([ended], [], [], STOP_S)[0]:
        process.kill()
        process.wait()
