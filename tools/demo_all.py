"""`make demo-all`: every example on the demo's hosts, one answer of each, then all that no training saw, through nginx.

An example is a folder of examples/ with a deploy.yml: what an inventory says to serve it.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import yaml
from bedplate.bundle.bundle import Bundle, read_bundle
from bedplate.commands.client import content_type_of
from bedplate.commands.table import table
from bedplate.decode.container import SOUNDS, VIDEOS, opened
from PIL import Image

from examples.common.heldout import is_right, label_of
from tools.demo import HOSTS, run, step
from tools.deployment import ROOT, SERVER_NAME, Deployment

BUILD = ROOT / "build"
SETTINGS = BUILD / "demo-all.yml"
PARALLEL = 4


@dataclass(frozen=True)
class Served:
    """A version of a model, by the name that clients use for it."""

    bundle: Bundle
    alias: str  # or the version itself

    @property
    def heldout(self) -> Path:
        return BUILD / "examples" / self.bundle.name / "heldout"

    @property
    def path(self) -> str:
        return f"/v1/models/{self.bundle.name}/versions/{self.alias}/predict"

    def cases(self) -> list[tuple[Path, str, str]]:
        """File, truth, and what the bundle said offline."""
        offline = _labels(self.heldout / f"predictions-{self.bundle.version}.csv")
        truth = _labels(self.heldout / "labels.csv")
        return [(self.heldout / file, truth[file], label) for file, label in offline.items() if file in truth]


def main() -> int:
    started = time.monotonic()
    examples = sorted(file.parent for file in (ROOT / "examples").glob("*/deploy.yml"))
    settings = merged([yaml.safe_load((example / "deploy.yml").read_text()) for example in examples])
    SETTINGS.write_text(yaml.safe_dump(settings))
    step("Test hosts: real systemd in nspawn, own addresses on a bridge")
    run([str(ROOT / "tools" / "testhosts"), "up", "demo", *HOSTS])
    step("ansible-playbook site.yml with all of them")
    run([str(Path(sys.executable).parent / "ansible-playbook"), "site.yml", f"--extra-vars=@{SETTINGS}"])
    demo, served = Deployment("demo"), list(all_served(settings))
    step("One answer of each, by `bedplate predict` through nginx over HTTPS")
    for each in served:
        show(demo, each)
    step("Everything that no training saw, through nginx, beside the truth and the offline answers")
    good = measure_all(demo, served)
    print(f"\n{time.monotonic() - started:.0f} s in all. `make demo-down` leaves nothing behind.")
    return 0 if good else 1


def merged(documents: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Lists of the same name become one."""
    whole: dict[str, list[Any]] = {}
    for document in documents:
        for name, entries in document.items():
            whole[name] = whole.get(name, []) + entries
    return whole


def all_served(settings: dict[str, list[str]]) -> Iterator[Served]:
    """In the order of the settings; one without an alias by its version."""
    aliases = {}
    for entry in settings.get("bedplate_aliases", []):
        name, alias, version = entry.replace("=", "/").split("/")
        aliases[name, version] = alias
    for entry in settings["bedplate_bundles"]:
        for directory in sorted((BUILD / "bundles" / entry.partition("/")[0]).glob(entry.partition("/")[2] or "*")):
            bundle = read_bundle(directory)
            yield Served(bundle, aliases.get((bundle.name, bundle.version), bundle.version))


def show(demo: Deployment, served: Served) -> None:
    cases = served.cases()
    if not cases:
        return
    [file, truth, _] = cases[len(cases) // 2]
    asked = [
        "--model",
        served.bundle.name,
        "--version",
        served.alias,
        "--address",
        demo.address,
        "--ca",
        demo.authority,
    ]
    command = [sys.executable, "-m", "bedplate", "predict", f"https://{SERVER_NAME}", file.relative_to(ROOT), *asked]
    asked_as = f"{served.bundle.name} as {served.alias}"
    print(
        f"\n{served.bundle.description} ({asked_as}): {file.name}, {describe(served.bundle, file)}; in truth {truth}",
        flush=True,
    )
    environment = {"BEDPLATE_API_KEY": demo.api_key, "PYTHONPATH": str(ROOT / "service")}
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit(f"demo-all: {served.bundle.name} {served.alias} was not answered; the line above says why")


def describe(bundle: Bundle, file: Path) -> str:
    """How large a picture is, how long a recording or clip, how much anything else."""
    if bundle.input.image:
        with Image.open(file) as picture:
            return f"{picture.width} x {picture.height} pixels"
    content = file.read_bytes()
    if bundle.input.sound or bundle.input.clip:
        with opened(content, SOUNDS + VIDEOS) as container:
            return f"{(container.duration or 0) / 1e6:.1f} s"
    return f"{len(content)} bytes"


def measure_all(demo: Deployment, served: list[Served]) -> bool:
    """Ask for each held-out file of each model, and tell whether all answers are the offline ones."""
    rows, good = [("model", "by", "files", "right", "as offline", "files/s")], True
    for each in served:
        cases = each.cases()
        if not cases:
            continue
        began = time.monotonic()
        answers = ask_all(demo, each.path, [file for file, _, _ in cases])
        rate = len(cases) / (time.monotonic() - began)
        right = sum(is_right(answer, truth) for answer, (_, truth, _) in zip(answers, cases, strict=True))
        same = sum(answer == offline for answer, (_, _, offline) in zip(answers, cases, strict=True))
        good = good and same == len(cases)
        model = f"{each.bundle.name} {each.bundle.version}"
        rows.append(
            (model, each.alias, str(len(cases)), f"{right / len(cases):.2%}", f"{same} of {len(cases)}", f"{rate:.0f}")
        )
    print(table(rows))
    return good


def ask_all(demo: Deployment, path: str, files: list[Path]) -> list[str]:
    """The label of each, never from a memory of answers."""
    mine = threading.local()

    def ask(file: Path) -> str:
        connection: HTTPSConnection = getattr(mine, "connection", None) or demo.connect()
        mine.connection = connection
        answer = demo.ask(connection, "POST", path, file.read_bytes(), Content_Type=content_type_of(file))
        if answer.status != 200:
            sys.exit(f"demo-all: {file.name}: status {answer.status}: {answer.body.decode(errors='replace')[:500]}")
        return label_of(answer.json["predictions"][0])

    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(ask, files))


def _labels(file: Path) -> dict[str, str]:
    """By file; of what is no classifier nothing."""
    if not file.exists():
        return {}
    with file.open() as lines:
        return {row["file"]: row["label"] for row in csv.DictReader(lines) if "file" in row and "label" in row}


if __name__ == "__main__":
    sys.exit(main())
