"""The whole measurement: model by model, round by round, and in each round every server in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.peers import bare, cases
from benchmarks.peers.cases import Case, WrongAnswer
from benchmarks.peers.peer import Peer, Setup, free_port
from benchmarks.peers.results import Measured
from benchmarks.peers.visit import Times, visit
from benchmarks.peers.wrk import LoadFailed


@dataclass(frozen=True)
class Order:
    """What is to be measured, and for how long."""

    peers: Sequence[Peer]
    with_bare: bool
    models: Sequence[str]
    clients: Mapping[str, Sequence[int]]  # by model
    rounds: int
    times: Times
    ports: tuple[int, int]  # first and last
    briefly: bool  # each configuration only with the numbers of clients that it is for


@dataclass
class Outcome:
    measured: list[Measured] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # servers without figures, and why


# A server's row, and the visit that measures it in one round.
_Turn = tuple[str, Callable[[int], list[Measured]]]


def run(order: Order) -> Outcome:
    outcome = Outcome()
    for name in order.models:
        case = cases.load(name)
        turns = list(_turns(order, case))
        for number in range(order.rounds):
            # Each round begins with another server: whoever follows a hot one follows it once.
            start = number % len(turns)
            for label, measure in turns[start:] + turns[:start]:
                _take(label, measure, name, number, outcome)
    return outcome


def _turns(order: Order, case: Case) -> Sequence[_Turn]:
    clients = order.clients[case.model.name]
    turns: list[_Turn] = []
    if order.with_bare:
        turns += [(label, _bare_visit_of(label, case, clients, order)) for label in bare.labels_of(case)]
    for peer in order.peers:
        for setup in peer.setups[case.model.name]:
            if counts := setup.counts(clients, order.briefly):
                turns.append((peer.label(setup), _visit_of(peer, setup, case, counts, order)))
    return turns


def _bare_visit_of(label: str, case: Case, clients: Sequence[int], order: Order) -> Callable[[int], list[Measured]]:
    return lambda number: bare.visit(case, label, number, clients, order.times)


def _visit_of(
    peer: Peer, setup: Setup, case: Case, counts: Sequence[int], order: Order
) -> Callable[[int], list[Measured]]:
    return lambda number: visit(peer, setup, case, number, counts, order.times, free_port(*order.ports))


def _take(label: str, measure: Callable[[int], list[Measured]], model: str, number: int, outcome: Outcome) -> None:
    began = time.monotonic()
    try:
        runs = measure(number)
    except (WrongAnswer, LoadFailed, TimeoutError, OSError) as error:
        outcome.failures.append(f"{label}, {model}, round {number + 1}: {error}")
        print(f"FAILED {outcome.failures[-1]}", flush=True)
        return
    outcome.measured += runs
    shown = "  ".join(f"{run.clients}: {run.per_s:.0f}/s" for run in runs)
    load = os.getloadavg()[0]
    print(f"{model} {number + 1} {label:32} {shown}  ({time.monotonic() - began:.0f} s, load {load:.1f})", flush=True)
