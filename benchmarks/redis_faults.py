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
from typing import Any

from tools.deployment import INVENTORIES, ROOT, Deployment
from tools.heldout import load
from tools.load.ledger import summarise

RESULT = ROOT / "build" / "benchmarks" / "redis_faults.json"
DATA_HOST = "ops1"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_faults")
    parser.add_argument("--fleet", choices=INVENTORIES, default="demo")
    parser.add_argument("--rate", type=float, default=50, help="requests per second")
    parser.add_argument("--seconds", type=float, default=20, help="of each phase")
    args = parser.parse_args()
    fleet = Deployment(args.fleet)
    results = {}
    for name, (begin, end) in faults(fleet).items():
        phases = {"well": under_load(fleet, args.rate, args.seconds, "true")}
        try:
            phases["onset"] = under_load(fleet, args.rate, args.seconds, begin)
            phases["after"] = under_load(fleet, args.rate, args.seconds, "true")
        finally:
            fleet.ssh(DATA_HOST, end)
        results[name] = phases
        for phase, summary in phases.items():
            print_row(name, phase, summary)
        time.sleep(5)  # until the front ends' probes have found Redis again
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2))


def faults(fleet: Deployment) -> dict[str, tuple[str, str]]:
    """By name, the commands on the data host that begin and end it."""
    port = fleet.ssh(DATA_HOST, "sed -n 's/^port //p' /etc/redis/redis-cache.conf").strip()
    drop = f"INPUT -p tcp --dport {port} -j DROP"
    password = fleet.secrets["secret_redis_cache_admin"]
    pause = f"REDISCLI_AUTH={password} redis-cli --user admin -h {fleet.address_of(DATA_HOST)} client pause 2000 ALL"
    slow = f"systemd-run --quiet --collect --unit=bedplate-slow sh -c 'while :; do {pause}; sleep 1.9; done'"
    return {
        "unreachable": (f"iptables -I {drop}", f"iptables -D {drop}"),
        "refused": ("systemctl stop redis-server@cache", "systemctl start redis-server@cache"),
        "slow": (slow, "systemctl stop bedplate-slow"),
    }


def under_load(fleet: Deployment, rate: float, seconds: float, command: str) -> dict[str, Any]:
    """Summary of the load; `command` runs on the data host in the middle of it."""
    timer = threading.Timer(seconds / 2, fleet.ssh, (DATA_HOST, command))
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
