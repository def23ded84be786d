"""Command line: one measurement, or all of them one after another."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys

from benchmarks.engine import report

NAMES = ("overload", "crowd", "poisoned", "killed", "stopped", "promoted", "churn", "device", "memory", "request_cost")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine")
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--quick", action="store_true", help="a fraction of the time; shows that it runs, no more")
    parser.add_argument("--minutes", type=float, default=30, help="of load, for 'memory' (30)")
    args = parser.parse_args()
    # So that what was started is stopped, whoever ends this.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if (cores := os.sched_getaffinity(0)) and len(cores) > 1:
        # The load runs in this process, on a core of its own; whatever is started gets the others (stack.py).
        os.sched_setaffinity(0, {min(cores)})
    missed = [name for name in (NAMES if args.name == "all" else [args.name]) if not _measure(name, args)]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return int(bool(missed))


def _measure(name: str, args: argparse.Namespace) -> bool:
    # By name: the others' imports cost seconds.
    module = importlib.import_module(f"benchmarks.engine.{name}")
    rows = module.measure(args.quick, args.minutes) if name == "memory" else module.measure(args.quick)
    return report.publish(name, rows, args.quick)


if __name__ == "__main__":
    sys.exit(main())
