"""The hashes that downloads are held to: which there are, and whether they fit the pins.

    locks/cp312.txt            what hosts with Python 3.12 get, but torch
    locks/control-cp312.txt    what a control machine with Python 3.12 gets, but torch
    locks/import-cp312.txt     what `bedplate bundle import` needs with Python 3.12, but torch
    locks/torch-cpu.txt        the build of torch for processors, for every Python
    locks/torch-cuda.txt       the build of torch for GPUs and the libraries of CUDA that it names, for every Python

tools/setup and tools/wheelhouse install from these alone. `python tools/locks.py cp312 torch-cpu` fails where one does
not fit; `make lock` (tools/lock.py) writes them. Needs nothing but Python: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
# Minor versions of Python 3 that hosts and control machines may have.
PYTHONS = (11, 12, 13, 14)
# Asked for the processor build of torch and for nothing else, and only when pip's own places do not have it.
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# Oldest glibc first to newest: 2.28 is older than that of every release we support (2.35 and later; Debian 2.31).
# pip takes each tag as it is, so the ones between count, too.
GLIBCS = ("1", "2010", "2014", *(f"_2_{minor}" for minor in range(5, 29)))
ENTRY = re.compile(r"^(\S+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def main() -> int:
    for name in sys.argv[1:]:
        try:
            require_fit(name)
        except ValueError as error:
            print(f"tools/locks.py: {error}", file=sys.stderr)
            return 1
    return 0


def every_name() -> list[str]:
    pythons = [f"cp3{minor}" for minor in PYTHONS]
    # Those of imports after those of control machines, by which they go.
    of_pythons = [f"{kind}{python}" for kind in ("", "control-", "import-") for python in pythons]
    return [*of_pythons, "torch-cpu", "torch-cuda"]


def path_of(name: str) -> Path:
    return PROJECT / "locks" / f"{name}.txt"


def require_fit(name: str) -> Path:
    """Return the file of a lock that has each pin at its version.

    Raises:
        ValueError: there is none, or it has another version, or a requirement is no pin; says what to do.
    """
    path = path_of(name)
    if not path.exists():
        raise ValueError(
            f"locks/{name}.txt is not there: packages are locked for Python {', '.join(f'3.{m}' for m in PYTHONS)}. "
            "Take one of these, or add yours to PYTHONS in tools/locks.py and run: make lock"
        )
    pins = {plain(pin): version for pin, version in pins_of(name).items()}
    locked = read(path)
    different = [one for one in pins if locked.get(one) != pins[one]]
    # Hosts get what is pinned and nothing else; the other locks also hold what the pins depend on.
    different += sorted(locked.keys() - pins.keys()) if name.startswith("cp") else []
    if different:
        one = different[0]
        raise ValueError(
            f"locks/{name}.txt has {one} {locked.get(one, 'without a hash')}, but the requirements "
            f"{f'pin {pins[one]}' if one in pins else 'do not name it'}. Run: make lock"
        )
    return path


def pins_of(name: str) -> dict[str, str]:
    """Return what a lock has to hold: {"falcon": "4.4.0", "tritonclient[http]": "2.73.0"}."""
    hosts = read_pins(PROJECT / "service/requirements.txt")
    torch = hosts.pop("torch")
    if name.startswith("torch-"):
        return {"torch": torch if name == "torch-cpu" else torch.removesuffix("+cpu")}
    if name.startswith("import-"):
        return hosts | read_pins(PROJECT / "service/requirements-import.txt")
    if not name.startswith("control-"):
        return hosts
    # The tests run the service with the packages that hosts have, those that torch needs among them.
    control = read_pins(PROJECT / "requirements.txt")
    del control["torch"]
    return hosts | control


def read_pins(path: Path) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    for line in lines:
        if line and not re.fullmatch(r"[^\s=]+==[^\s=]+", line):
            raise ValueError(f"{path.relative_to(PROJECT)}: '{line}' is no pin, such as falcon==4.4.0. Write one")
    return dict(line.split("==") for line in lines if line)


def read(path: Path) -> dict[str, str]:
    """Return the version of each package that the lock has a hash for."""
    return {name: version for name, version, _ in ENTRY.findall(path.read_text())}


def write(name: str, entries: Mapping[str, set[str]]) -> None:
    """Write {"falcon==4.4.0": {"<sha256>", …}} as pip reads it."""
    text = "# Made by `make lock` from the pins in requirements.txt and service/requirements*.txt.\n"
    for pin, hashes in sorted(entries.items()):
        text += " \\\n    ".join([pin, *(f"--hash=sha256:{one}" for one in sorted(hashes))]) + "\n"
    path_of(name).parent.mkdir(exist_ok=True)
    path_of(name).write_text(text)


def wheels_for(python: str) -> list[str]:
    """Return pip's options for the wheels of a Python such as "3.12" on the releases we support."""
    platforms = [f"--platform=manylinux{glibc}_x86_64" for glibc in GLIBCS]
    return ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]


def plain(name: str) -> str:
    """Return "prometheus-client" for "Prometheus_Client[twisted]", as indexes name it."""
    return re.sub(r"[-_.]+", "-", name.split("[", maxsplit=1)[0]).lower()


if __name__ == "__main__":
    sys.exit(main())
