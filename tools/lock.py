"""Write the locks that do not fit the pins: `make lock`, after a change of requirements.

`python -m tools.lock control-cp312` writes that one anew, whatever it holds. pip says which files it would install and
their hashes; nothing is installed. A lock that fits is left as it is: a version that was locked keeps its hashes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tools import locks

# Older ones download whole wheels to look at what they name, several GB for CUDA.
OLDEST_PIP = (23, 3)


def main() -> int:
    pip = tuple(int(part) for part in version("pip").split(".")[:2])
    if pip < OLDEST_PIP:
        wanted = f"tools.lock: pip is {version('pip')}, 23.3 or later is wanted"
        print(f"{wanted}. Run: {sys.executable} -m pip install --upgrade pip", file=sys.stderr)
        return 1
    for name in sys.argv[1:] or [name for name in locks.every_name() if not fits(name)]:
        try:
            entries = ask(name)
        except (ValueError, subprocess.CalledProcessError) as error:
            print(f"tools.lock: {name}: {error}", file=sys.stderr)
            return 1
        locks.write(name, entries)
        print(f"made: locks/{name}.txt, {len(entries)} packages", flush=True)
    return 0


def fits(name: str) -> bool:
    try:
        locks.require_fit(name)
    except ValueError:
        return False
    return True


def ask(name: str) -> dict[str, set[str]]:
    """Return the hashes for each "name==version" of a lock."""
    pins = as_requirements(locks.pins_of(name))
    hosts = as_requirements(locks.pins_of("cp311"))  # the same for every Python
    if name == "torch-cpu":
        return merge(torch_for_processors(minor, pins) for minor in locks.PYTHONS)
    if name == "torch-cuda":
        # "torch==2.13.0" would also take a "2.13.0+cpu" that pip's own places may have.
        exact = [pin.replace("==", "===") for pin in pins]
        found = merge(resolve_whole(minor, exact, hosts) for minor in locks.PYTHONS)
        return {pin: hashes for pin, hashes in found.items() if pin not in hosts}
    minor = int(name.rpartition("cp3")[2])
    if name.startswith(("control-", "import-")):
        # Held to the build for processors, which has a lock of its own: no package here may bring CUDA.
        torch = as_requirements(locks.pins_of("torch-cpu"))
        # An author may import where a fleet is controlled from, too.
        beside = locks.read(locks.path_of(name.replace("import", "control"))) if name.startswith("import-") else {}
        found = merge([resolve_whole(minor, pins, torch + as_requirements(beside))])
        return {pin: hashes for pin, hashes in found.items() if pin not in torch}
    return merge([resolve(minor, pins, "--no-deps")])


def as_requirements(pins: dict[str, str]) -> list[str]:
    return [f"{name}=={version}" for name, version in pins.items()]


def torch_for_processors(minor: int, pins: Sequence[str]) -> list[dict[str, Any]]:
    try:
        return resolve(minor, pins, "--no-deps")
    except subprocess.CalledProcessError:
        return resolve(minor, pins, "--no-deps", f"--index-url={locks.TORCH_INDEX}")


def resolve_whole(minor: int, requirements: Sequence[str], constraints: Sequence[str]) -> list[dict[str, Any]]:
    """Ask with all that packages depend on. pip judges their markers by the Python that runs it, hence the rounds."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "constraints.txt"
        file.write_text("\n".join(constraints))
        found = resolve(minor, requirements, f"--constraint={file}")
        while missing := missing_for(minor, found):
            requirements = [*requirements, *missing]
            found = resolve(minor, requirements, f"--constraint={file}")
        return found


def missing_for(minor: int, found: Sequence[dict[str, Any]]) -> list[str]:
    """Return what packages want with this Python, at its first or at a late patch release, and pip left out."""
    names = {locks.plain(one["metadata"]["name"]) for one in found}
    missing = set()
    for one in found:
        for requirement in map(Requirement, one["metadata"].get("requires_dist", [])):
            marker, requirement.marker = requirement.marker, None
            environments = [
                {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.{patch}", "extra": extra}
                for patch in (0, 99)
                for extra in ("", *one.get("requested_extras", []))
            ]
            wanted = marker is None or any(marker.evaluate(environment) for environment in environments)
            if wanted and locks.plain(requirement.name) not in names:
                missing.add(str(requirement))
    return sorted(missing)


def resolve(minor: int, requirements: Sequence[str], *options: str) -> list[dict[str, Any]]:
    """Return pip's report of each file that it would install for this Python."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--quiet", "install"]
        command += ["--dry-run", "--ignore-installed", f"--report={report}", f"--target={scratch}/none"]
        # Reads what a wheel names without downloading it.
        command += ["--use-feature=fast-deps", *locks.wheels_for(f"3.{minor}"), *options, *requirements]
        subprocess.run(command, check=True)
        found: list[dict[str, Any]] = json.loads(report.read_text())["install"]
        return found


def merge(reports: Iterable[list[dict[str, Any]]]) -> dict[str, set[str]]:
    """Gather the hashes of several Pythons' files of the same versions."""
    entries: dict[str, set[str]] = {}
    for one in (one for report in reports for one in report):
        pin = f"{locks.plain(one['metadata']['name'])}=={one['metadata']['version']}"
        entries.setdefault(pin, set()).add(one["download_info"]["archive_info"]["hashes"]["sha256"])
    names = [pin.split("==")[0] for pin in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Pythons get different versions of {', '.join(twice)}. Pin one for all of them")
    return entries


if __name__ == "__main__":
    sys.exit(main())
