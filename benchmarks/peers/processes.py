"""A server as a session of its own: started, watched through /proc, and stopped with everything it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environment import FOLDER, ROOT

LOGS = FOLDER / "logs"
STOP_S = 15.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    session: int
    processor_s: float  # of itself and of the children that it has waited for


def processes() -> dict[int, Process]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                process = read_stat((entry / "stat").read_text())
                found[process.pid] = process
    return found


def read_stat(line: str) -> Process:
    # The name, in brackets, may hold anything.
    pid, fields = line.partition(" ")[0], line.rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:15]))
    return Process(int(pid), int(fields[1]), int(fields[3]), ticks / _TICKS_PER_S)


def tree_of(roots: Sequence[int], all_of_them: Mapping[int, Process]) -> list[Process]:
    """The roots, what descends from them, and what is in their sessions: daemons leave their parents."""
    sessions = {pid for pid in roots if pid in all_of_them and all_of_them[pid].session == pid}
    chosen = set(roots) | {pid for pid, process in all_of_them.items() if process.session in sessions}
    grown = True
    while grown:
        more = {pid for pid, process in all_of_them.items() if process.parent in chosen} - chosen
        chosen |= more
        grown = bool(more)
    return [all_of_them[pid] for pid in sorted(chosen) if pid in all_of_them]


@dataclass
class Tree:
    """The processes of a server."""

    roots: Sequence[int]

    def processor_s(self) -> float:
        return sum(process.processor_s for process in tree_of(self.roots, processes()))

    def pss_mb(self) -> float:
        """Resident memory, shared pages divided among those who share them."""
        return sum(map(_pss_mb, (process.pid for process in tree_of(self.roots, processes()))))

    def pids(self) -> list[int]:
        return [process.pid for process in tree_of(self.roots, processes())]


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def running(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Tree]:
    """Nothing of it runs afterwards."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    # Its end ends the server too, should this process be killed.
    tied = ["setpriv", "--pdeathsig", "TERM", *command]
    with log.open("wb") as out:
        process = subprocess.Popen(
            tied,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    tree = Tree([process.pid])
    try:
        yield tree
    finally:
        _stop(process, tree)


def _stop(process: subprocess.Popen[bytes], tree: Tree) -> None:
    started = set(tree.pids())
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    give_up = time.monotonic() + STOP_S
    while time.monotonic() < give_up:
        process.poll()
        if not _alive(started):
            break
        time.sleep(0.1)
    for pid in _alive(started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if _state(pid) not in ("", "Z")}


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def tail_of(name: str, characters: int = 1500) -> str:
    log = LOGS / f"{name}.log"
    return log.read_text(errors="replace")[-characters:] if log.exists() else ""
