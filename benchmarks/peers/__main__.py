"""Command line."""

from __future__ import annotations

import argparse
import signal
import sys

from benchmarks.peers import catalogue, environment
from benchmarks.peers.cases import MODELS
from benchmarks.peers.run import Order, run
from benchmarks.peers.visit import Times


def main() -> int:
    args = _arguments()
    # So that what was started is stopped, whoever ends this.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    peers = [catalogue.peer(name) for name in args.only if name != "bare"]
    environment.require_tools(["wrk", *(tool for peer in peers for tool in peer.tools)])
    for name in (environment.SHARED, *(peer.name for peer in peers)):
        environment.python_of(name)
    outcome = run(
        Order(
            peers,
            "bare" in args.only,
            args.models,
            {name: model.clients for name, model in MODELS.items()},
            args.rounds,
            Times(args.seconds, args.warm_seconds),
            args.ports,
        )
    )
    return int(bool(outcome.failures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--only", type=_names(("bare", *catalogue.NAMES)), default=("bare", *catalogue.NAMES))
    parser.add_argument("--models", type=_names(tuple(MODELS)), default=tuple(MODELS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--warm-seconds", type=float, default=2)
    parser.add_argument("--ports", type=_range, default=(18400, 18499))
    return parser.parse_args()


def _names(known):
    def read(text):
        names = tuple(text.split(","))
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not among {', '.join(known)}")
        return names

    return read


def _range(text):
    first, _, last = text.partition("-")
    return int(first), int(last)


if __name__ == "__main__":
    sys.exit(main())
