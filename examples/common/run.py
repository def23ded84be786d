"""What `python -m examples.NAME.train` does around the training: nothing at all where its results lie already."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bedplate.bundle.bundle import BundleError
from bedplate.bundle.manifest import MANIFEST, verify_manifest

THREADS = 1  # the same sums everywhere, and no waiting for a second core that others use
STAMP = ".train.sha256"
_COMMON = Path(__file__).parent


class NotGoodEnough(Exception):
    """What was trained is worth less than its threshold; nothing of it is written."""


def run(script: str, bundles: Sequence[str], make: Callable[[Path], None]) -> int:
    """Ask the command line, call `make` with the folder to write below, and remember that it ended well.

    Args:
        script: __file__ of the example's train.py.
        bundles: NAME/VERSION of what `make` writes: bundles/NAME/VERSION, and examples/NAME/heldout.
    """
    source = Path(script).parent
    parser = argparse.ArgumentParser(description=f"Train the example {source.name} and write its bundles.")
    parser.add_argument("--build", type=Path, default=Path("build"), help="the folder to write below")
    parser.add_argument("--force", action="store_true", help="train even if everything is there")
    args = parser.parse_args()
    if not args.force and is_complete(source, args.build, bundles):
        print(f"{source.name}: {', '.join(bundles)} complete in {args.build}; nothing to do (--force trains again)")
        return 0
    started = time.monotonic()
    torch.set_num_threads(THREADS)
    try:
        make(args.build)
    except NotGoodEnough as error:
        print(f"{source.name}: {error}; nothing was written", file=sys.stderr)
        return 1
    write_stamp(source, args.build, bundles)
    print(f"{source.name}: {', '.join(bundles)} in {args.build}; took {time.monotonic() - started:.0f} s")
    return 0


def bundle_folder(build: Path, bundle: str) -> Path:
    """Of NAME/VERSION."""
    return build / "bundles" / bundle


def held_out_folder(build: Path, bundle: str) -> Path:
    """Of NAME or NAME/VERSION: versions of a name are asked about the same files."""
    return build / "examples" / bundle.partition("/")[0] / "heldout"


def write_stamp(source: Path, build: Path, bundles: Sequence[str]) -> None:
    """Written last, so it also says that the run was not cut off."""
    stamp = build / "examples" / source.name / STAMP
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(_fingerprint(source, build, bundles))


def is_complete(source: Path, build: Path, bundles: Sequence[str]) -> bool:
    try:
        for bundle in bundles:
            verify_manifest(bundle_folder(build, bundle))
        return (build / "examples" / source.name / STAMP).read_text() == _fingerprint(source, build, bundles)
    except (BundleError, OSError):
        return False


def _fingerprint(source: Path, build: Path, bundles: Sequence[str]) -> str:
    """Of the programs, and of what they made."""
    files = [*sorted(_COMMON.glob("*.py")), *sorted(source.glob("*.py"))]
    for bundle in bundles:
        files += [bundle_folder(build, bundle) / MANIFEST, *sorted(held_out_folder(build, bundle).glob("*.csv"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
