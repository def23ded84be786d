"""Goodput against offered load: requests leave on a schedule, however slow the answers are.

A right answer within the deadline counts, nothing else does. Clients give up at the deadline, as people do.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import uvloop

from benchmarks.peers import checking
from benchmarks.peers.cases import Case, WrongAnswer
from benchmarks.peers.figures import in_classes, percentile
from benchmarks.peers.peer import Peer, Running, Setup
from benchmarks.peers.results import DEADLINE_MS, Offered
from tools.load.http1 import request_bytes
from tools.load.ledger import Record
from tools.load.plan import Plan, poisson_arrivals, read_target
from tools.load.run import run

SHARES = (0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0)  # of what the server did with clients that wait for their answers
# After a load that was too much: until the server answers quickly again.
_RECOVERY_S = 30.0
_WARM_S = 2.0
_LATE_S = 0.02


def measure(peer: Peer, setup: Setup, case: Case, capacity_per_s: float, seconds: float, port: int) -> list[Offered]:
    """
    Raises:
        WrongAnswer, TimeoutError: the server has no figures then.
    """
    with peer.running(setup, case, port, DEADLINE_MS) as server:
        checking.check(case, server.dialect, server.port, server.path)
        _offer(server, case, capacity_per_s / 2, _WARM_S)
        return [_level(peer, setup, case, capacity_per_s, share, seconds, server) for share in SHARES]


def _level(
    peer: Peer, setup: Setup, case: Case, capacity_per_s: float, share: float, seconds: float, server: Running
) -> Offered:
    records = _offer(server, case, capacity_per_s * share, seconds)
    if any(record.error == "wrong-body" for record in records):
        raise WrongAnswer(f"an answer under {share} of the capacity is not torch's")
    good = [record for record in records if is_good(record)]
    offered = Offered(
        peer.name,
        peer.label(setup),
        case.model.name,
        capacity_per_s,
        share,
        len(records) / seconds,
        len(good) / seconds,
        percentile(in_classes(Counter(round(record.latency_s * 1e6) for record in good)), 0.99) / 1e3,
        dict(Counter(record.error or str(record.status) for record in records)),
        sum(record.sent - record.intended > _LATE_S for record in records),
    )
    _recover(server, case)
    return offered


def is_good(record: Record) -> bool:
    """Right, and in time from the moment at which it was due."""
    return not record.failed and record.latency_s <= DEADLINE_MS / 1e3


def _offer(server: Running, case: Case, per_s: float, seconds: float) -> Sequence[Record]:
    headers = case.headers(server.dialect)
    inputs = case.model.inputs
    bodies = [case.body(number, server.dialect) for number in range(inputs)]
    head_bytes = _head_bytes(server, case)

    def is_right(number: int, body: bytes) -> bool:
        try:
            return case.is_right(number % inputs, case.read(body, head_bytes))
        except ValueError:
            return False

    plan = Plan(
        target=read_target(f"http://127.0.0.1:{server.port}", None, None),
        requests=[request_bytes("POST", server.path, headers, body) for body in bodies],
        arrivals=poisson_arrivals(per_s, seconds, seed=1),
        expected={},
        is_right=is_right,
        timeout_s=DEADLINE_MS / 1e3,
        max_connections=4096,
    )
    return uvloop.run(run(plan))


def _head_bytes(server: Running, case: Case) -> str | None:
    """How long the JSON in front of an answer is: the load sees bodies alone, and it is the same in all of them."""
    _, _, head_bytes = checking.ask(
        server.port, server.path, case.headers(server.dialect), case.body(0, server.dialect)
    )
    return head_bytes


def _recover(server: Running, case: Case) -> None:
    give_up = time.monotonic() + _RECOVERY_S
    while time.monotonic() < give_up:
        asked = time.monotonic()
        try:
            checking.answer_to(0, case, server.dialect, server.port, server.path)
        except (OSError, WrongAnswer):
            time.sleep(0.5)
            continue
        if time.monotonic() - asked < DEADLINE_MS / 2e3:
            return
        time.sleep(0.2)
