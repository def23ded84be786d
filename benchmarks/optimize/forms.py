"""The trained networks as bundles with a validation set, and the form that `optimize` finds best for each here."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from bedplate.bundle.bundle import read_bundle, write_manifest
from bedplate.commands.optimize import report
from bedplate.engine.prepared import RECORD, ArtifactStore, Host, place_of
from bedplate.optimize.candidates import CANDIDATES
from bedplate.optimize.trials import TrialOptions, keep, optimize
from safetensors.torch import save_file

from benchmarks.optimize.trained import Data
from benchmarks.peers import environment
from benchmarks.peers.bedplate.bundle import write_bundle
from benchmarks.peers.cases import Case

LOSS_POINTS = 0.5


def bundle_of(folder: Path, case: Case, known: Data) -> Path:
    """Made anew with the same content each time: what was found for it stays good."""
    shutil.rmtree(folder / case.model.name, ignore_errors=True)
    directory = write_bundle(folder, case)
    inputs, classes = map(torch.from_numpy, known)
    save_file({"inputs": inputs, "expected": classes}, directory / "validation.safetensors")
    document = yaml.safe_load((directory / "bundle.yaml").read_text())
    document["validation"] = {"file": "validation.safetensors", "metric": "accuracy", "threshold": 0.9}
    (directory / "bundle.yaml").write_text(yaml.safe_dump(document))
    write_manifest(directory)
    return directory


def choose(directory: Path, shelf: Path) -> None:
    bundle = read_bundle(directory)
    command = (sys.executable, "-m", "benchmarks.optimize", "--worker")
    options = TrialOptions("cpu0", 1, [environment.cores() - 1], LOSS_POINTS, 0.5, 300, command)
    # Networks that are no chain of layers stand for the bundle's own, so nobody can tell that they convolve.
    some = [one for one in CANDIDATES if bundle.name == "cnn" or not one.channels_last]
    with tempfile.TemporaryDirectory() as folder:
        figures, package = optimize(bundle, directory, options, Path(folder), print, some)
        print(report(bundle, figures, options), flush=True)
        keep(bundle, shelf, Host.here("cpu", 1), options, figures, package)


def found(directory: Path, shelf: Path) -> tuple[str, list[dict[str, Any]]]:
    """The form that engines serve it in, and how all of them did.

    Raises:
        FileNotFoundError, Unusable: nothing was kept for this bundle, torch and processor.
    """
    bundle, host = read_bundle(directory), Host.here("cpu", 1)
    record = json.loads((place_of(shelf, bundle, host) / RECORD).read_text())
    return ArtifactStore(shelf, host).read(bundle).name, record["figures"]
