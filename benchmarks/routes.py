"""What /v1 costs beside /v2: the tiny model of `benchmarks.peers`, JSON in and out, both routes of one server in turn.

    .venv/bin/python -m benchmarks.routes [--rounds N] [--seconds S]

The machine drifts, so only what stands side by side is compared: each round asks by both routes, with as many clients,
and the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.engine.stack import scratch
from benchmarks.peers import bedplate, cases, checking, wrk
from benchmarks.peers.bedplate.bundle import write_bundle
from benchmarks.peers.cases import FOLDER, Case, WrongAnswer
from benchmarks.peers.environment import require_tools
from benchmarks.peers.peer import Running, free_port

CLIENTS = (1, 64)
PORTS = (18400, 18499)
WARM_S = 1.0
BAR = 0.85  # of /v2
ROUTES = {"/v2": "/v2/models/tiny/infer", "/v1": "/v1/models/tiny/predict"}


@dataclass(frozen=True)
class Turn:
    """One route with so many clients."""

    per_s: float
    cpu_us: float  # of all of the server's processes, for a request


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in each turn")
    args = parser.parse_args()
    require_tools(["wrk"])
    case = cases.load("tiny")
    with scratch() as folder:
        bundle = write_bundle(folder / "bundles", case)
        setup = bedplate.PEER.setups["tiny"][0]
        with bedplate.served(bundle, setup, case, free_port(*PORTS)) as server:
            check(case, server)
            ratios = [report(count, rounds(case, server, count, args.rounds, args.seconds)) for count in CLIENTS]
    print(f"bar: {BAR} of /v2")
    return int(min(ratios) < BAR)


def rounds(case: Case, server: Running, clients: int, count: int, seconds: float) -> list[dict[str, Turn]]:
    return [{route: _turn(case, server, route, clients, seconds) for route in ROUTES} for _ in range(count)]


def report(clients: int, found: list[dict[str, Turn]]) -> float:
    for route in ROUTES:
        per_s = statistics.median(turns[route].per_s for turns in found)
        cpu_us = statistics.median(turns[route].cpu_us for turns in found)
        print(f"{clients} clients, {route}: {per_s:,.0f}/s, {cpu_us:.1f} us of processor a request")
    ratio = statistics.median(turns["/v1"].per_s / turns["/v2"].per_s for turns in found)
    print(f"{clients} clients: /v1 does {ratio:.2f} of /v2")
    return ratio


def check(case: Case, server: Running) -> None:
    """Both routes say what torch says.

    Raises:
        WrongAnswer: one does not.
    """
    checking.check(case, server.dialect, server.port, ROUTES["/v2"])
    for number in range(cases.CHECKED):
        status, body, _ = checking.ask(server.port, ROUTES["/v1"], _headers(server), _body(case, number))
        scores = json.loads(body)["predictions"][0]["scores"] if status == 200 else {}
        found = np.array([scores.get(str(label), np.nan) for label in range(case.model.outputs)], np.float32)
        if not case.is_right(number, found):
            raise WrongAnswer(f"input {number} by /v1: status {status}, {body[:300]!r}")


def _turn(case: Case, server: Running, route: str, clients: int, seconds: float) -> Turn:
    bodies = _write_bodies(case, server, route)
    url = f"http://127.0.0.1:{server.port}{ROUTES[route]}"
    wrk.load(url, bodies, case.model.inputs, clients, WARM_S)
    before_s = server.tree.processor_s()
    result = wrk.load(url, bodies, case.model.inputs, clients, seconds)
    return Turn(result.per_s, 1e6 * (server.tree.processor_s() - before_s) / result.requests)


def _write_bodies(case: Case, server: Running, route: str) -> Path:
    folder = FOLDER / "bodies" / f"routes-{route[1:]}"
    if route == "/v2":
        return wrk.write_bodies(case, server.dialect, folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "headers").write_text("".join(f"{name}: {value}\n" for name, value in _headers(server).items()))
    for number in range(case.model.inputs):
        (folder / str(number)).write_bytes(_body(case, number))
    return folder


def _headers(server: Running) -> dict[str, str]:
    return {**server.dialect.headers, "Content-Type": "application/json"}


def _body(case: Case, number: int) -> bytes:
    numbers = [round(float(value), 4) for value in case.inputs[number]]
    return json.dumps({"inputs": [numbers]}, separators=(",", ":")).encode()


if __name__ == "__main__":
    sys.exit(main())
