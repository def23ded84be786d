"""Builds and measures every candidate for one model on this host, one after another, and keeps the best."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.strict_yaml import BundleError
from bedplate.engine.prepared import RECORD, ArtifactStore, Host, Record, Unusable, place_of, sha256_of, write_record
from bedplate.optimize.candidates import CANDIDATES, PLAIN, Candidate, Figures, best_of, verdict
from bedplate.optimize.difference import difference_of

PACKAGE = "model.pt2"
# Of a host's directory: what an older torch or content of the bundle left, for the way back.
_KEPT = 3
WORKER = (sys.executable, "-m", "bedplate.optimize.worker")


@dataclass(frozen=True)
class TrialOptions:
    """How candidates are measured.

    Args:
        device: cpuN or gpuN, as engines are called; its cores are used.
        threads: of an engine.
        cores: of which the device takes its own.
        accuracy_loss: percentage points of the validation set that may be lost.
        seconds: of each measurement.
        limit_s: that building or measuring one candidate may take.
    """

    device: str
    threads: int
    cores: Sequence[int]
    accuracy_loss: float
    seconds: float
    limit_s: float
    worker: Sequence[str] = WORKER


def optimize(
    bundle: Bundle,
    directory: Path,
    options: TrialOptions,
    folder: Path,
    say: Callable[[str], None],
    candidates: Sequence[Candidate] = CANDIDATES,
) -> tuple[list[Figures], Path | None]:
    """Build and measure all candidates. Return the measurements, and the native code of the best in `folder`, if any.

    Raises:
        BundleError: the model does not work even as float32.
    """
    found: list[Figures] = []
    for candidate in candidates:
        say(f"{bundle.name} {bundle.version}: {candidate.name}")
        figures = _try(bundle, directory, candidate, options, folder)
        if candidate.name == PLAIN:
            if figures.refused:
                raise BundleError(f"{directory}: {figures.refused}")
            plain = figures
        elif not figures.refused:
            threshold = bundle.validation.threshold if bundle.validation else 0.0
            difference = _difference(folder, figures.name)
            if math.isfinite(difference):
                figures = replace(figures, difference=difference)
                figures = replace(figures, refused=verdict(figures, plain, threshold, options.accuracy_loss))
            else:
                figures = replace(figures, refused="answers NaN or infinity elsewhere than float32")
        found.append(figures)
    package = _package(folder, best_of(found).name)
    return found, package if package.exists() else None


def remembered(bundle: Bundle, shelf: Path, host: Host, options: TrialOptions, candidates: Sequence[Candidate]) -> bool:
    """Whether a record exists that engines accept, of just these candidates, for this accuracy loss."""
    try:
        ArtifactStore(shelf, host).read(bundle)
        record = json.loads((place_of(shelf, bundle, host) / RECORD).read_text())
    except (Unusable, OSError):
        return False
    tried = {figures["name"] for figures in record["figures"]}
    return record["accuracy_loss"] == options.accuracy_loss and tried == {one.name for one in candidates}


def keep(
    bundle: Bundle, shelf: Path, host: Host, options: TrialOptions, figures: Sequence[Figures], package: Path | None
) -> Path:
    """Store the best candidate in place of an earlier one; return where."""
    best = best_of(figures)
    candidate = next(one for one in CANDIDATES if one.name == best.name)
    place = place_of(shelf, bundle, host)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if package:
        shutil.copyfile(package, place / PACKAGE)
    record = Record(
        bundle.name,
        bundle.version,
        bundle.digest,
        host,
        candidate.precision,
        candidate.channels_last,
        PACKAGE if package else None,
        sha256_of(place / PACKAGE) if package else None,
        options.accuracy_loss,
        [asdict(one) for one in figures],
    )
    write_record(place, record)
    _tidy(place.parent)
    return place


def _tidy(versions: Path) -> None:
    places = sorted(versions.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in places[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _try(bundle: Bundle, directory: Path, candidate: Candidate, options: TrialOptions, folder: Path) -> Figures:
    form = candidate.form(_package(folder, candidate.name))
    asked = {
        "bundle": str(directory),
        "device": options.device,
        "threads": options.threads,
        "cores": list(options.cores),
        "precision": form.precision,
        "channels_last": form.channels_last,
        "package": str(form.package) if form.package else None,
        "seconds": options.seconds,
        "answers": str(_answers(folder, candidate.name)),
    }
    built = _ask({"do": "build", **asked}, options) if candidate.compiled else {}
    said = built if built.get("refused") else {**built, **_ask({"do": "measure", **asked}, options)}
    return Figures(candidate.name, **said)


def _ask(asked: dict[str, Any], options: TrialOptions) -> dict[str, Any]:
    """One worker's answer; that it died or was too slow is one too."""
    with _work_folder() as scratch:
        try:
            done = subprocess.run(
                options.worker,
                input=json.dumps(asked) + "\n",
                capture_output=True,
                text=True,
                timeout=options.limit_s,
                check=False,
                # What one candidate leaves in torch's caches must not help the next.
                env={**os.environ, "OMP_NUM_THREADS": str(options.threads), "TMPDIR": scratch},
            )
        except subprocess.TimeoutExpired:
            return {"refused": f"took longer than {options.limit_s:g} s to {asked['do']}"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"refused": f"ended with status {done.returncode} ({last[:200]})"}
    return answer


@contextlib.contextmanager
def _work_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bedplate-optimize-") as name:
        yield name


def _difference(folder: Path, name: str) -> float:
    plain, found = (np.load(_answers(folder, each)) for each in (PLAIN, name))
    return difference_of(found, plain)


def _answers(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _package(folder: Path, name: str) -> Path:
    return folder / f"{name}.pt2"
