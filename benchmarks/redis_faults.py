"""What clients notice when the response cache is not well: open-loop load on a fleet that site.yml built.

    python -m benchmarks.redis_faults [--fleet demo] [--rate 50] [--seconds 20]

Each fault in turn, under the same load of held-out pictures, answers from the cache allowed: the cache is well; the
fault begins in the middle of a phase (onset); the fault lasts (after). Faults: packets to Redis are dropped, Redis is
stopped, each of its commands waits two seconds. Writes build/benchmarks/redis_faults.json.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from tools.deployment import INVENTORIES, ROOT, Deployment
from tools.heldout import load
from tools.load.ledger import summarise

RESULT = ROOT / "build" / "benchmarks" / "redis_faults.json"
DATA_HOST = "ops1"
PAUSE = "CLIENT PAUSE 2000 ALL"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_faults")
    parser.add_argument("--fleet", choices=INVENTORIES, default="demo")
    parser.add_argument("--rate", type=float, default=50, help="requests per second")
    parser.add_argument("--seconds", type=float, default=20, help="of each phase")
    args = parser.parse_args()
    fleet = Deployment(args.fleet)
    results = {}
    for name, (begin, end) in faults(fleet).items():
        phases = {"well": under_load(fleet, args.rate, args.seconds, nothing)}
        try:
            phases["onset"] = under_load(fleet, args.rate, args.seconds, begin)
            phases["after"] = under_load(fleet, args.rate, args.seconds, nothing)
        finally:
            end()
        results[name] = phases
        for phase, summary in phases.items():
            print_row(name, phase, summary)
        time.sleep(5)  # until the front ends' probes have found Redis again
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2))


def nothing() -> None:
    pass


def faults(fleet: Deployment) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """By name, what begins the fault and what ends it."""
    port = fleet.ssh(DATA_HOST, "sed -n 's/^port //p' /etc/redis/redis-cache.conf").strip()
    drop = f"INPUT -p tcp --dport {port} -j DROP"
    slow = _Slow(fleet)
    return {
        "unreachable": _on_data_host(fleet, f"iptables -I {drop}", f"iptables -D {drop}"),
        "refused": _on_data_host(fleet, "systemctl stop redis-server@cache", "systemctl start redis-server@cache"),
        "slow": (slow.begin, slow.end),
    }


def _on_data_host(fleet: Deployment, begin: str, end: str) -> tuple[Callable[[], object], Callable[[], object]]:
    return lambda: fleet.ssh(DATA_HOST, begin), lambda: fleet.ssh(DATA_HOST, end)


class _Slow:
    """Has Redis hold every command for up to two seconds, again and again."""

    def __init__(self, fleet: Deployment):
        self._fleet = fleet
        self._stop = threading.Event()

    def begin(self) -> None:
        self._fleet.redis(PAUSE)
        threading.Thread(target=self._go_on, daemon=True).start()

    def _go_on(self) -> None:
        while not self._stop.wait(1.8):
            self._fleet.redis("CLIENT UNPAUSE", PAUSE)

    def end(self) -> None:
        self._stop.set()
        time.sleep(2)  # for as long as the last pause may last


def under_load(fleet: Deployment, rate: float, seconds: float, act: Callable[[], object]) -> dict[str, Any]:
    """Summary of the load; `act` is called in the middle of it."""
    timer = threading.Timer(seconds / 2, act)
    timer.start()
    with load(fleet, rate, seconds, cached=True) as records:
        timer.join()
    return summarise(records)


def print_row(fault: str, phase: str, summary: dict[str, Any]) -> None:
    latency = summary["latency_ms"]
    print(
        f"{fault:12} {phase:6} {summary['failed']:3} failed of {summary['sent']}   "
        f"p50 {latency['p50']:7} ms   p99 {latency['p99']:7} ms   max {latency['max']:7} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
