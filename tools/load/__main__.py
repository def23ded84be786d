"""Command line: read the plan, run it, print the summary as JSON, exit 1 when too many requests failed."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from tools.load.ledger import Record, summarise, write_line
from tools.load.plan import (
    Plan,
    build_requests,
    constant_arrivals,
    poisson_arrivals,
    read_expected,
    read_headers,
    read_target,
)
from tools.load.run import run

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with suppress(ImportError):
    from uvloop import new_event_loop


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.load", description="Open-loop load with a ledger.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--connect-to", metavar="ADDRESS", help="connect here; the URL still names the server")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="authority that signed the server's certificate")
    # Only by file or environment: every process on the machine can read a command line.
    parser.add_argument("--header-file", type=Path, metavar="FILE", help="lines `Name: value`")
    parser.add_argument("--header-env", metavar="VARIABLE", help="environment variable holding one `Name: value`")
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--poisson-seed", type=int, metavar="SEED", help="random arrivals instead of even ones")
    parser.add_argument("--timeout-s", type=float, default=30.0, help="per request, from its sending (30)")
    parser.add_argument("--max-connections", type=int, default=256, help="requests past it leave late (256)")
    parser.add_argument("--content-type", help="of all bodies; by their file names when not given")
    parser.add_argument("--expect", type=Path, metavar="FILE", help="JSON: body's position to {sha256|label: …}")
    parser.add_argument("--ledger", type=Path, metavar="FILE", help="one JSON line per request")
    parser.add_argument("--max-failed", type=int, metavar="N", help="exit 1 when more than N requests failed")
    parser.add_argument("bodies", nargs="*", type=Path, help="files to POST in turn; a GET when none is given")
    return parser.parse_args(argv)


def build_plan(args: argparse.Namespace) -> Plan:
    lines = args.header_file.read_text().splitlines() if args.header_file else []
    if args.header_env:
        lines.append(os.environ[args.header_env])
    headers = read_headers([line for line in lines if line.strip()])
    if args.poisson_seed is None:
        arrivals = constant_arrivals(args.rate, args.seconds)
    else:
        arrivals = poisson_arrivals(args.rate, args.seconds, args.poisson_seed)
    return Plan(
        target=read_target(args.url, args.ca, args.connect_to),
        requests=build_requests(args.url, headers, args.bodies, args.content_type),
        arrivals=arrivals,
        expected=read_expected(args.expect, len(args.bodies)) if args.expect else {},
        timeout_s=args.timeout_s,
        max_connections=args.max_connections,
    )


def run_plan(plan: Plan, ledger: Path | None) -> list[Record]:
    if ledger is None:
        return on_fastest_loop(run(plan))
    with ledger.open("w") as file:
        return on_fastest_loop(run(plan, lambda record: write_line(file, record)))


def on_fastest_loop(coroutine: Coroutine[Any, Any, list[Record]]) -> list[Record]:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(coroutine)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        plan = build_plan(args)
    except (OSError, ValueError, KeyError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    summary = summarise(run_plan(plan, args.ledger))
    print(json.dumps(summary, indent=2))
    return int(args.max_failed is not None and summary["failed"] > args.max_failed)


if __name__ == "__main__":
    sys.exit(main())
