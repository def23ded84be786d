"""What `bedplate bundle optimize` brings: Bedplate as it found best, Bedplate as bundles say, and a peer in float32.

    PYTHONPATH=service:. python -m benchmarks.optimize [--models cnn,transformer] [--peer mosec] [--rounds 3]

All three serve the same weights on the same cores, two processes of one thread each, to 16 clients of wrk, in turn in
each round. The validation set is what float32 says of 400 inputs, so accuracy is the share of them that keep their
class; the networks are not trained, which makes that harder: their classes lie close together.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from bedplate.bundle import read_bundle, write_manifest
from bedplate.engine.prepared import Host
from bedplate.optimize import worker
from bedplate.optimize.candidates import CANDIDATES
from bedplate.optimize.command import report
from bedplate.optimize.trials import Terms, keep, optimize
from safetensors.torch import save_file

from benchmarks.engine.models import weighted
from benchmarks.networks import VOCABULARY
from benchmarks.peers import cases, catalogue, checking, environment, wrk
from benchmarks.peers.bedplate import PEER, served
from benchmarks.peers.bedplate.bundle import write_bundle
from benchmarks.peers.cases import Case
from benchmarks.peers.peer import Running, free_port

FOLDER = environment.ROOT / "build" / "benchmarks" / "optimize"
SHELF = FOLDER / "prepared"
ITEMS = 400
CLIENTS = 16
# What other numbers may change of the largest logit; whether answers keep their class is measured apart.
_ROUNDED = 0.1


class Rounded(Case):
    """A case whose answers may come from fewer bits."""

    @functools.cached_property
    def tolerance(self) -> float:
        return _ROUNDED * float(np.abs(self.expected).max())


def main() -> int:
    if sys.argv[1:] == ["--worker"]:
        return worker.main(weighted)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimize")
    parser.add_argument("--models", default="cnn,transformer")
    parser.add_argument("--peer", default="mosec", choices=catalogue.NAMES[1:])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of load for each figure (5)")
    parser.add_argument("--known", action="store_true", help="serve what an earlier run found best")
    args = parser.parse_args()
    for name in args.models.split(","):
        case = cases.load(name)
        if not args.known:
            _optimize(_write_known(case))
        if args.rounds:
            _show(name, args.peer, _rounds(case, FOLDER / name, args))
    return 0


def _write_known(case: Case) -> Path:
    """The bundle with a validation set; made anew with the same content each time."""
    with contextlib.suppress(FileNotFoundError):
        for path in (FOLDER / case.model.name).iterdir():
            path.unlink()
        (FOLDER / case.model.name).rmdir()
    directory = write_bundle(FOLDER, case)
    document = yaml.safe_load((directory / "bundle.yaml").read_text())
    document["validation"] = {"file": "validation.safetensors", "metric": "accuracy", "threshold": 0.9}
    write_manifest(directory)
    network = weighted(read_bundle(directory), directory)
    random = np.random.default_rng(seed=1)
    shape = (ITEMS, *case.model.shape)
    numbers = random.integers(0, VOCABULARY, shape) if case.model.name == "transformer" else random.normal(size=shape)
    inputs = torch.from_numpy(numbers.astype(np.float32))
    with torch.inference_mode():
        expected = torch.cat([network(some).argmax(1) for some in inputs.split(8)])
    save_file({"inputs": inputs, "expected": expected}, directory / "validation.safetensors")
    (directory / "bundle.yaml").write_text(yaml.safe_dump(document))
    write_manifest(directory)
    return directory


def _optimize(directory: Path) -> None:
    bundle = read_bundle(directory)
    command = (sys.executable, "-m", "benchmarks.optimize", "--worker")
    terms = Terms("cpu0", 1, [environment.cores() - 1], 0.5, 3, 300, command)
    # Networks that are no chain of layers stand for the bundle's own, so nobody can tell that they convolve.
    some = [one for one in CANDIDATES if bundle.name == "cnn" or not one.channels_last]
    with tempfile.TemporaryDirectory() as folder:
        figures, package = optimize(bundle, directory, terms, Path(folder), print, some)
        print(report(bundle, figures, terms), flush=True)
        keep(bundle, SHELF, Host.here("cpu", 1), terms, figures, package)


def _rounds(case: Case, bundle: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    peer = catalogue.peer(args.peer)
    setup = next(one for one in peer.setups[case.model.name] if one.counts([CLIENTS], False))
    ours = replace(PEER.setups[case.model.name][0], workers=2)
    rounded = Rounded(case.model, case.inputs, case.expected, case.label_of_ones)

    @contextlib.contextmanager
    def running(which: str, port: int) -> Iterator[tuple[Case, Running]]:
        if which == args.peer:
            with peer.running(setup, case, port) as server:
                yield case, server
        elif which == "as bundles say":
            with served(bundle, ours, case, port) as server:
                yield case, server
        else:
            with served(bundle, ours, rounded, port, prepared_dir=str(SHELF)) as server:
                yield rounded, server

    rates: dict[str, list[float]] = {args.peer: [], "as bundles say": [], "optimized": []}
    for _ in range(args.rounds):
        for which, found in rates.items():
            with running(which, free_port(18400, 18499)) as (wanted, server):
                found.append(_rate(wanted, server, args.seconds))
    return rates


def _rate(case: Case, server: Running, seconds: int) -> float:
    """Requests a second; answers are right before and after."""
    checking.check(case, server.dialect, server.port, server.path)
    bodies = wrk.write_bodies(case, server.dialect, FOLDER / "bodies")
    wrk.load(server.url, bodies, case.model.inputs, CLIENTS, 1)
    result = wrk.load(server.url, bodies, case.model.inputs, CLIENTS, seconds)
    checking.check(case, server.dialect, server.port, server.path)
    return result.per_s


def _show(name: str, peer: str, rates: dict[str, list[float]]) -> None:
    base = statistics.median(rates[peer])
    for which, found in rates.items():
        shown = " ".join(f"{rate:.1f}" for rate in found)
        rate = statistics.median(found)
        print(f"{name:12} {which:16} {rate:8.1f} requests/s  {rate / base:5.2f} x {peer}   rounds: {shown}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
