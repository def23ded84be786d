"""Processes that outlive the tool and are found again: a pid alone may by now be somebody else's."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tools.disposable.system import Refused


@dataclass(frozen=True)
class Process:
    pid: int
    started_ticks: int

    def alive(self) -> bool:
        return _started_ticks(self.pid) == self.started_ticks

    def signal(self, number: int) -> None:
        """Through a pidfd: the pid cannot change hands between the look and the signal."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    def wait_gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def is_init(self) -> bool:
        """Whether it is PID 1 of a namespace of its own."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except FileNotFoundError:
            return False
        return any(line.startswith("NSpid:") and line.split()[1:][1:] and line.split()[-1] == "1" for line in lines)

    def children(self) -> list[Process]:
        try:
            pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        except FileNotFoundError:
            return []
        found = (process_of(int(pid)) for pid in pids)
        return [process for process in found if process is not None]


def process_of(pid: int) -> Process | None:
    ticks = _started_ticks(pid)
    return None if ticks is None else Process(pid, ticks)


def _started_ticks(pid: int) -> int | None:
    """Start time since boot; None where the process is gone or only waits to be reaped."""
    try:
        # The name in the second field may hold blanks and brackets; the fields after it do not.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def recorded(record: Path) -> Process | None:
    """The process in a record, if it still runs."""
    try:
        pid, ticks = map(int, record.read_text().split())
    except (FileNotFoundError, ValueError):
        return None
    process = Process(pid, ticks)
    return process if process.alive() else None


def launch(command: list[str], record: Path, log: Path, cgroups: list[Path]) -> None:
    """Start a command in a session of its own. It writes its record itself, before it becomes the command:
    however this tool ends, nothing runs unrecorded."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        try:
            _become(command, record, log, cgroups)
        except OSError as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(127)
    os.close(write_end)
    # Ends without a byte when the command has begun: that closes the other end.
    with os.fdopen(read_end) as report:
        fault = report.read()
    if fault:
        raise Refused(f"{command[0]} did not start: {fault}")


def _become(command: list[str], record: Path, log: Path, cgroups: list[Path]) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    new = record.with_suffix(".new")
    new.write_text(f"{os.getpid()} {_started_ticks(os.getpid())}\n")
    new.replace(record)
    for cgroup in cgroups:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    os.execvp(command[0], command)
