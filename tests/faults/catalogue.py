"""The faults that are planted on purpose: tests/faults/ROLE.yml, read and applied to a copy of the repository."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests/faults"
# Asked about every fault, beside what its role names.
EVERY_ROLES_TEMPLATES = tuple(f"tests/templates/test_{name}.py" for name in ("tasks", "consistency", "sandboxes"))
# Not in git, and needed by what runs in a copy.
LINKED = [
    ".bedplate",
    ".venv",
    "build",
    "molecule/inventory/authority",
    "molecule/inventory/secrets.yml",
    "wheelhouse",
]


@dataclass(frozen=True)
class Fault:
    role: str
    name: str  # a sentence: what is so, once somebody has committed it
    file: str
    found: str  # has to be there exactly once
    put: str
    play: tuple[str, ...] = ()  # brings it onto hosts; none for a fault that no host has to show
    hosts: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()  # who has to notice it there; the word `again` is a run that has to change nothing
    templates: tuple[str, ...] = ()  # who may notice it without a host
    by: str = ""  # the test of one of these that should: asked first, which is quicker
    # Commands for the hosts' root shells, where it takes more than the play:
    before: str = ""  # makes them forget what a clean run has left
    after: str = ""  # makes them forget what the fault has left

    def planted(self, text: str) -> str:
        """The file with the fault in it."""
        count = text.count(self.found)
        if count != 1:
            raise ValueError(f"{self.name}: {self.file} has this {count} times, wanted once:\n{self.found}")
        return text.replace(self.found, self.put)


def read(folder: Path = FOLDER) -> list[Fault]:
    """Every fault, by role. What a fault does not say is said for the whole role at the head of its file."""
    faults = []
    for path in sorted(folder.glob("*.yml")):
        head = yaml.safe_load(path.read_text())
        for own in head.pop("faults"):
            lists = {key: tuple(value) if isinstance(value, list) else value for key, value in (head | own).items()}
            lists["templates"] = (*lists.get("templates", ()), *EVERY_ROLES_TEMPLATES)
            faults.append(Fault(role=path.stem, **lists))
    return faults


def defines(test: str, file: Path) -> bool:
    return bool(test) and f"def {test}(" in file.read_text()


class Tree:
    """A throw-away copy of the repository, as it lies here, in which faults are planted."""

    def __init__(self, folder: Path):
        self.folder = folder
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        for name in filter(None, names):
            self._copy(name)
        for name in LINKED:
            if (ROOT / name).exists():
                (folder / name).symlink_to(ROOT / name)
        # It tells its fleets by the place where it lies.
        (folder / "tools/testhosts").unlink()
        (folder / "tools/testhosts").symlink_to(ROOT / "tools/testhosts")

    def _copy(self, name: str) -> None:
        source, copy = ROOT / name, self.folder / name
        if source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
            copy.chmod(source.stat().st_mode)

    def plant(self, fault: Fault) -> None:
        path = self.folder / fault.file
        path.write_text(fault.planted(path.read_text()))

    def mend(self, fault: Fault) -> None:
        self._copy(fault.file)
