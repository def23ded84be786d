"""Command line: train, let optimize choose, compare; then JSON and a table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from bedplate.optimize import worker
from bedplate.optimize.candidates import PLAIN

from benchmarks.engine.models import weighted
from benchmarks.optimize import forms, trained
from benchmarks.optimize.sides import CLIENTS, OPTIMIZED, rounds, sides_of
from benchmarks.optimize.table import Compared, markdown
from benchmarks.peers import catalogue, environment, machine
from benchmarks.peers.cases import MODELS, Case, require_distinct

FOLDER = environment.ROOT / "build" / "benchmarks" / "optimize"
SHELF = FOLDER / "prepared"
DOCS = environment.ROOT / "docs" / "benchmarks"


def main() -> int:
    if sys.argv[1:] == ["--worker"]:
        return worker.main(weighted)
    args = _arguments()
    # So that what was started is stopped, whoever ends this.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    environment.require_tools(["wrk"])
    for name in (environment.SHARED, "bedplate", args.peer):
        environment.python_of(name)
    torch.set_num_threads(1)
    prepared = {name: _prepared(name, args.known) for name in args.models.split(",")}
    if args.setup:
        return 0
    described = machine.describe()
    compared = [_compared(case, known, bundle, args) for case, known, bundle in prepared.values()]
    how = f"Rounds: {args.rounds}, servers in turn in each; {args.seconds:g} s of load by {CLIENTS} clients after 2 s. "
    how += "Medians, and in brackets the lowest and the highest round; a round's rates are compared with each other."
    text = markdown(compared, described, how)
    tried = {name: forms.found(bundle, SHELF)[1] for name, (_, _, bundle) in prepared.items()}
    documents = [one.document for one in compared]
    _keep(args.out, text, {"how": how, "machine": described, "compared": documents, "tried": tried})
    print(text)
    return int(any(one.missed for one in compared))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimize")
    parser.add_argument("--models", default="cnn,transformer")
    parser.add_argument("--peer", default="mosec", choices=catalogue.NAMES[1:])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of load for each figure (5)")
    parser.add_argument("--known", action="store_true", help="serve what an earlier run found best")
    parser.add_argument("--setup", action="store_true", help="environments, training and optimize; compare nothing")
    parser.add_argument("--out", type=Path, default=DOCS, metavar="FOLDER", help="(docs/benchmarks)")
    return parser.parse_args()


def _prepared(name: str, is_known: bool) -> tuple[Case, trained.Data, Path]:
    network = trained.network(name, FOLDER / "weights" / f"{name}.safetensors")
    known = trained.validation(name)
    items = torch.from_numpy(known[0])
    with torch.inference_mode():
        expected = torch.cat([network(some) for some in items.split(8)]).numpy()
        label_of_ones = int(network(torch.ones_like(items[:1])).argmax())
    case = Case(MODELS[name], known[0], expected, label_of_ones, FOLDER / "weights")
    require_distinct(case)
    bundle = forms.bundle_of(FOLDER / "bundles", case, known)
    if not is_known:
        forms.choose(bundle, SHELF)
    return case, known, bundle


def _compared(case: Case, known: trained.Data, bundle: Path, args: argparse.Namespace) -> Compared:
    sides = sides_of(case, catalogue.peer(args.peer), bundle, SHELF)
    form, _ = forms.found(bundle, SHELF)
    accuracy = {}
    for side in sides:
        accuracy[side.label] = side.accuracy(known[1])
        print(f"{case.model.name} {side.label}: accuracy {accuracy[side.label]:.4f}", flush=True)
    forms_of = {side.label: form if side.label == OPTIMIZED else PLAIN for side in sides}
    return Compared(case.model.name, forms_of, accuracy, list(rounds(sides, args.rounds, args.seconds)))


def _keep(folder: Path, text: str, document: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "optimize.md").write_text(text)
    (folder / "optimize.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
