"""One visit to one server: start it, check it, measure it at each number of clients, check it again, stop it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers import checking, wrk
from benchmarks.peers.cases import FOLDER, Case
from benchmarks.peers.figures import in_classes
from benchmarks.peers.peer import Peer, Running, Setup
from benchmarks.peers.results import Measured


@dataclass(frozen=True)
class Times:
    seconds: float  # measured
    warm_s: float  # before, with as many clients


def visit(
    peer: Peer, setup: Setup, case: Case, turn: int, clients: Sequence[int], times: Times, port: int
) -> list[Measured]:
    """
    Raises:
        WrongAnswer, LoadFailed, TimeoutError: the server has no figures then.
    """
    with peer.running(setup, case, port) as server:
        verify = functools.partial(checking.check, case, server.dialect, server.port, server.path)
        verify()
        runs = [_measure(peer, setup, case, turn, count, times, server) for count in clients]
        verify()
    return runs


def _measure(peer: Peer, setup: Setup, case: Case, turn: int, clients: int, times: Times, server: Running) -> Measured:
    # Keys differ from start to start, so the headers do too.
    bodies = wrk.write_bodies(case, server.dialect, FOLDER / "bodies" / f"{peer.name}-{case.model.name}")
    load = functools.partial(wrk.load, server.url, bodies, case.model.inputs, clients)
    load(times.warm_s)
    before_s = server.tree.processor_s()
    result = load(times.seconds)
    spent_s = server.tree.processor_s() - before_s
    if result.bytes < result.requests * case.least_answer_bytes:
        raise wrk.LoadFailed(f"{result.bytes} bytes for {result.requests} answers: too short to be right")
    return Measured(
        peer.name,
        peer.label(setup),
        setup.says,
        case.model.name,
        turn,
        clients,
        result.per_s,
        1e3 * spent_s / result.requests,
        server.tree.pss_mb(),
        in_classes(result.latencies_us),
    )
