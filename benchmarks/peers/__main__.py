"""Command line: the run, then its JSON, table and plots."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.peers import catalogue, environment, goodput, machine, plots, results, table
from benchmarks.peers.cases import MODELS
from benchmarks.peers.run import Order, run
from benchmarks.peers.visit import Times

DOCS = environment.ROOT / "docs" / "benchmarks"
# Kept figures come from whole runs only.
QUICK = environment.FOLDER / "quick"
# What is not said otherwise.
_WHOLE = {"models": tuple(MODELS), "rounds": 3, "seconds": 8.0, "warm_seconds": 2.0, "goodput": 3, "out": DOCS}
_QUICK = {
    "models": ("tiny", "transformer"),
    "rounds": 1,
    "seconds": 3.0,
    "warm_seconds": 1.0,
    "goodput": 0,
    "out": QUICK,
}
QUICK_CLIENTS = {"tiny": (1, 64), "cnn": (16,), "transformer": (16,)}


def main() -> int:
    args = _arguments()
    # So that what was started is stopped, whoever ends this.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    order = _order(args)
    environment.require_tools(["wrk", *(tool for peer in order.peers for tool in peer.tools)])
    for name in (environment.SHARED, "plots", *(peer.name for peer in order.peers)):
        environment.python_of(name)
    if args.setup:
        return 0
    described = machine.describe()
    outcome = run(order)
    offered = goodput.run(order, outcome, args.goodput, args.seconds) if args.goodput else []
    how = _how(order)
    results.write(args.out / "results.json", outcome.measured, offered, described, outcome.failures, how)
    text = table.markdown(outcome.measured, offered, described, outcome.failures, how)
    (args.out / "figures.md").write_text(text)
    plots.draw(args.out / "results.json", args.out)
    print(text)
    print(f"kept in {args.out}")
    return int(bool(outcome.failures))


def _order(args: argparse.Namespace) -> Order:
    clients: Mapping[str, Sequence[int]] = {name: model.clients for name, model in MODELS.items()}
    if args.quick:
        clients = QUICK_CLIENTS
    if args.clients:
        clients = dict.fromkeys(MODELS, args.clients)
    return Order(
        [catalogue.peer(name) for name in args.only if name != catalogue.BARE],
        catalogue.BARE in args.only,
        args.models,
        clients,
        args.rounds,
        Times(args.seconds, args.warm_seconds),
        args.ports,
        args.quick,
    )


def _how(order: Order) -> str:
    rounds = f"{order.rounds} round{'s' if order.rounds > 1 else ''}, servers in turn in each"
    return f"{rounds}; {order.times.seconds:g} s of load after {order.times.warm_s:g} s of warm-up."


def _arguments() -> argparse.Namespace:
    everyone = (catalogue.BARE, *catalogue.NAMES)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--only", type=_among(everyone), default=everyone, metavar="NAMES", help=", ".join(everyone))
    parser.add_argument("--models", type=_among(tuple(MODELS)), metavar="NAMES", help="(all; quick tiny,transformer)")
    parser.add_argument("--quick", action="store_true", help="five minutes: one short round, fewer clients, no goodput")
    parser.add_argument("--clients", type=_counts, metavar="COUNTS", help="(1,16,64,256 for tiny, 1,16 for the others)")
    parser.add_argument("--rounds", type=int, help="(3; quick 1)")
    parser.add_argument("--seconds", type=float, help="of load for each figure, whole ones (8; quick 3)")
    parser.add_argument("--warm-seconds", type=float, help="of load before it (2; quick 1)")
    parser.add_argument("--goodput", type=int, metavar="N", help="open loop for ours and the N best peers (3; quick 0)")
    parser.add_argument("--ports", type=_range, default=(18400, 18499), metavar="FIRST-LAST", help="(18400-18499)")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="(docs/benchmarks; quick build/benchmarks/peers/quick)"
    )
    parser.add_argument("--setup", action="store_true", help="make the environments, measure nothing")
    args = parser.parse_args()
    for name, value in (_QUICK if args.quick else _WHOLE).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def _among(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not among {', '.join(known)}")
        # In the order of the catalogue.
        return tuple(name for name in known if name in text.split(","))

    return read


def _counts(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last)


if __name__ == "__main__":
    sys.exit(main())
