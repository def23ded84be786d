"""The pictures of examples/digits that training never saw: sent one by one, or as an open-loop load."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    offline = _labels("predictions.csv")
    return [Case(FOLDER / file, truth, offline[file]) for file, truth in _labels("labels.csv").items()]


def _labels(name: str) -> dict[str, str]:
    with (FOLDER / name).open() as lines:
        return {row["file"]: row["label"] for row in csv.DictReader(lines)}


def plan(fleet: Deployment, rate: float, seconds: float, cached: bool) -> Plan:
    """Every picture in turn, `rate` a second; an answer other than the offline one counts as failed.

    Args:
        cached: whether an answer may come from the response cache.
    """
    cases = read_cases()
    url = f"https://{SERVER_NAME}{PREDICT}"
    headers = {"Authorization": f"Bearer {fleet.api_key}"} | ({} if cached else {"Cache-Control": "no-cache"})
    return Plan(
        target=read_target(url, fleet.authority, fleet.address),
        requests=build_requests(url, headers, [case.file for case in cases], "image/png"),
        arrivals=constant_arrivals(rate, seconds),
        expected={number: Expected(label=case.offline) for number, case in enumerate(cases)},
    )


@contextmanager
def load(fleet: Deployment, rate: float, seconds: float, cached: bool = False) -> Iterator[list[Record]]:
    """Send the plan in the background while the body runs; the list is filled when the body has ended."""
    records: list[Record] = []
    work = plan(fleet, rate, seconds, cached)
    sending = threading.Thread(target=lambda: records.extend(run_plan(work, None)))
    sending.start()
    try:
        yield records
    finally:
        sending.join()
