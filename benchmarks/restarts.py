"""What clients notice of restarts and of a killed engine: open-loop load on a fleet that site.yml built.

    python -m benchmarks.restarts [--fleet demo] [--rate 100] [--seconds 60]

Four phases in one run, under the same load of held-out pictures, each answer compared with the offline one:
steady; ten restarts of web instances, one by one; some with the host drained first, which takes a second
host; one SIGKILL of the engine. Writes build/benchmarks/restarts.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tools.deployment import INVENTORIES, ROOT, Deployment
from tools.heldout import load
from tools.load.ledger import Record, summarise

RESTARTS = 10
DRAINED_RESTARTS = 3
INSTANCES = 2
RESULT = ROOT / "build" / "benchmarks" / "restarts.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restarts")
    parser.add_argument("--fleet", choices=INVENTORIES, default="demo")
    parser.add_argument("--rate", type=float, default=100, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60, help="of each phase; drained restarts may take longer")
    args = parser.parse_args()
    fleet = Deployment(args.fleet)
    phases = {
        "steady": lambda: under_load(fleet, args.rate, args.seconds, steady),
        "restarted": lambda: under_load(fleet, args.rate, args.seconds, lambda end: restart(fleet, end)),
        "drained first": lambda: under_load(fleet, args.rate, 2 * args.seconds, lambda _: restart_drained(fleet)),
        "engine killed": lambda: engine_killed(fleet, args.rate, args.seconds / 2),
    }
    results = {}
    for name, phase in phases.items():
        results[name] = phase()
        print_row(name, results[name])
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2))


def under_load(fleet: Deployment, rate: float, seconds: float, disturb: Callable[[float], None]) -> dict[str, Any]:
    """Summary of the load while `disturb(end)` ran, `end` being when the load ends."""
    with load(fleet, rate, seconds) as records:
        disturb(time.monotonic() + seconds)
        took = time.monotonic()
    return summarise(records) | {"disturbed_until": round(took, 1)}


def steady(end: float) -> None:
    """No disturbance."""


def restart(fleet: Deployment, end: float) -> None:
    pause_s = (end - time.monotonic()) / (RESTARTS + 1)
    for number in range(RESTARTS):
        time.sleep(pause_s)
        # In the background: a restart that takes long must not put off the next one.
        unit = f"bedplate-web@{number % INSTANCES + 1}.service"
        threading.Thread(target=fleet.ssh, args=("gpu1", f"systemctl restart {unit}")).start()


def restart_drained(fleet: Deployment) -> None:
    for _ in range(DRAINED_RESTARTS):
        play(fleet, "drain.yml")
        fleet.ssh("gpu1", "systemctl restart 'bedplate-web@*.service'")
        play(fleet, "undrain.yml")


def play(fleet: Deployment, name: str) -> None:
    done = fleet.playbook(name, "-e", "host=gpu1")
    if done.returncode:
        sys.exit(f"playbooks/{name} failed: {done.stdout}")


def engine_killed(fleet: Deployment, rate: float, seconds: float) -> dict[str, Any]:
    """As under_load, plus how long no right answer came."""
    with load(fleet, rate, seconds) as records:
        time.sleep(seconds / 5)
        fleet.ssh("gpu1", "systemctl kill --signal=KILL --kill-whom=main bedplate-engine@cpu0.service")
    return summarise(records) | {"outage_s": outage_s(records)}


def outage_s(records: Sequence[Record]) -> float:
    """The longest time between two right answers."""
    moments = sorted(record.done for record in records if not record.failed)
    return round(max(later - earlier for earlier, later in itertools.pairwise(moments)), 2)


def print_row(name: str, result: dict[str, Any]) -> None:
    latency = result["latency_ms"]
    extra = f"  no right answer for {result['outage_s']} s" if "outage_s" in result else ""
    print(
        f"{name:14} {result['failed']:5} of {result['sent']} failed  p50 {latency['p50']} ms  p99 {latency['p99']} ms"
        f"  max {latency['max']} ms  {result['statuses']} {result['errors']}{extra}",
        flush=True,
    )


if __name__ == "__main__":
    main()
