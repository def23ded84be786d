"""What a peer says of itself, and how one that is a single command is started."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers import environment, processes
from benchmarks.peers.cases import Case, Dialect, Model
from benchmarks.peers.checking import wait_until_ready
from benchmarks.peers.processes import Tree

START_S = 120.0
# The variant for a single client, of peers whose batches wait for company.
NO_BATCHING = "no batching"


@dataclass(frozen=True)
class Setup:
    """One configuration of a peer for one model."""

    says: str  # in the words of the peer's own documentation
    workers: int = 1
    max_batch: int = 1
    wait_ms: float = 0.0
    variant: str = ""  # beside the peer's name, where it has several
    clients: tuple[int, ...] | None = None  # measured with so many only; None: with all

    def counts(self, clients: Sequence[int], briefly: bool) -> list[int]:
        """Numbers of clients to measure with.

        Args:
            briefly: with those only that the configuration is for, where the peer has one for a single client.
        """
        wanted = self.clients
        if briefly and self.variant:
            wanted = (1,) if self.variant == NO_BATCHING else tuple(count for count in clients if count > 1)
        return [count for count in clients if wanted is None or count in wanted]


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    path: str
    dialect: Dialect
    tree: Tree

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"


# Setup, case, a free port with a few free ones after it, and the deadline of its clients in ms (0: none).
Start = Callable[[Setup, Case, int, float], AbstractContextManager[Running]]


@dataclass(frozen=True)
class Peer:
    name: str
    title: str
    setups: Mapping[str, Sequence[Setup]]  # by model
    path: Callable[[Model], str]
    dialect: Dialect = field(default_factory=lambda: Dialect({}, protocol=False))
    command: Callable[[Path], list[str]] | None = None  # by the interpreter; None: the folder's server.py
    start: Start | None = None  # None: as one command
    tools: Sequence[str] = ()  # programs of the distribution

    def label(self, setup: Setup) -> str:
        return f"{self.title}, {setup.variant}" if setup.variant else self.title

    def running(self, setup: Setup, case: Case, port: int, deadline_ms: float = 0) -> AbstractContextManager[Running]:
        """Answers rightly when entered; nothing of it runs afterwards."""
        return (self.start or self._as_command)(setup, case, port, deadline_ms)

    @contextlib.contextmanager
    def _as_command(self, setup: Setup, case: Case, port: int, deadline_ms: float) -> Iterator[Running]:
        python = environment.python_of(self.name)
        command = self.command(python) if self.command else [str(python), "-m", f"benchmarks.peers.{self.name}.server"]
        variables = environment.isolated(
            PATH=f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
            BENCH_MODEL=case.model.name,
            BENCH_WEIGHTS=str(case.folder),
            BENCH_PORT=str(port),
            BENCH_WORKERS=str(setup.workers),
            BENCH_MAX_BATCH=str(setup.max_batch),
            BENCH_WAIT_MS=str(setup.wait_ms),
            BENCH_DEADLINE_MS=str(deadline_ms),
        )
        log = f"{self.name}-{case.model.name}{setup.variant and '-' + setup.variant.replace(' ', '-')}"
        with (
            # Short: some keep unix sockets there. They leave things behind, so it goes away with them.
            tempfile.TemporaryDirectory(prefix="bp-", ignore_cleanup_errors=True) as scratch,
            processes.running(log, command, {**variables, "TMPDIR": scratch, "RAY_TMPDIR": scratch}) as tree,
        ):
            running = Running(port, self.path(case.model), self.dialect, tree)
            try:
                wait_until_ready(case, self.dialect, port, running.path, START_S, tree.pids)
            except TimeoutError as error:
                raise TimeoutError(f"{error}\n{processes.tail_of(log)}") from None
            yield running


def free_port(first: int, last: int, needed: int = 4) -> int:
    """One in the range that is free, and so are those after it.

    Raises:
        OSError: there is none.
    """
    for port in range(first, last - needed + 2):
        if all(map(_is_free, range(port, port + needed))):
            return port
    raise OSError(f"no {needed} free ports in a row between {first} and {last}; say --ports FIRST-LAST")


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
