"""The pictures of examples/digits that training never saw: sent one by one, or as an open-loop load."""

from __future__ import annotations

import atexit
import csv
import math
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from tools.deployment import ROOT, SERVER_NAME, Deployment
from tools.load.__main__ import run_plan
from tools.load.ledger import Record
from tools.load.plan import Expected, Plan, build_requests, constant_arrivals, read_target

FOLDER = ROOT / "build" / "examples" / "digits" / "heldout"
PREDICT = "/v1/models/digits/predict"


@dataclass(frozen=True)
class Case:
    file: Path
    truth: str
    offline: str  # what the model answered on the machine that trained it


def read_cases() -> list[Case]:
    offline = _labels("predictions-1.csv")
    return [Case(FOLDER / file, truth, offline[file]) for file, truth in _labels("labels.csv").items()]


def _labels(name: str) -> dict[str, str]:
    with (FOLDER / name).open() as lines:
        return {row["file"]: row["label"] for row in csv.DictReader(lines)}


def plan(fleet: Deployment, rate: float, seconds: float, cached: bool) -> Plan:
    """Every picture in turn, `rate` a second; an answer other than the offline one counts as failed.

    Args:
        cached: the response cache is asked, always for a picture that it has never seen.
    """
    cases = read_cases()
    files = [case.file for case in cases]
    if cached:
        files = _never_seen(files, math.ceil(rate * seconds))
    url = f"https://{SERVER_NAME}{PREDICT}"
    headers = {"Authorization": f"Bearer {fleet.api_key}"} | ({} if cached else {"Cache-Control": "no-cache"})
    return Plan(
        target=read_target(url, fleet.authority, fleet.address),
        requests=build_requests(url, headers, files, "image/png"),
        arrivals=constant_arrivals(rate, seconds),
        expected={number: Expected(label=cases[number % len(cases)].offline) for number in range(len(files))},
    )


def _never_seen(files: list[Path], count: int) -> list[Path]:
    """`count` copies that differ in bytes after the picture's end, which no decoder reads."""
    folder = Path(tempfile.mkdtemp(prefix="bedplate-pictures-"))
    atexit.register(shutil.rmtree, folder)
    mark = secrets.token_bytes(8)
    for number in range(count):
        content = files[number % len(files)].read_bytes()
        (folder / f"{number:06}.png").write_bytes(content + mark + number.to_bytes(4, "big"))
    return sorted(folder.iterdir())


@contextmanager
def load(
    fleet: Deployment, rate: float, seconds: float, cached: bool = False, ends_with_body: bool = False
) -> Iterator[list[Record]]:
    """Send the plan in the background while the body runs; the list is filled when the body has ended.

    Args:
        ends_with_body: nothing more is sent once the body has ended, however much of `seconds` is left.
    """
    records: list[Record] = []
    work = plan(fleet, rate, seconds, cached)
    has_ended = threading.Event()
    if ends_with_body:
        work = replace(work, arrivals=takewhile(lambda _: not has_ended.is_set(), work.arrivals))
    sending = threading.Thread(target=lambda: records.extend(run_plan(work, None)))
    sending.start()
    try:
        yield records
    finally:
        has_ended.set()
        sending.join()
    if not records:
        raise RuntimeError("the load did not run; its error is above")
