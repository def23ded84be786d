"""Closed-loop load by wrk: so many clients, each asking again as soon as it has its answer."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.cases import Case, Dialect

SCRIPT = Path(__file__).with_name("load.lua")
# A server that is this slow is measured all the same.
TIMEOUT_S = 30


class LoadFailed(Exception):
    """Requests were not answered, or not with a success: the figures would mean nothing."""


@dataclass(frozen=True)
class Result:
    requests: int
    seconds: float
    bytes: int
    latencies_us: dict[int, int]  # latency → how many

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds


def write_bodies(case: Case, dialect: Dialect, folder: Path) -> Path:
    """What wrk is to send, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    headers = case.headers(dialect)
    (folder / "headers").write_text("".join(f"{name}: {value}\n" for name, value in headers.items()))
    for number in range(case.model.inputs):
        (folder / str(number)).write_bytes(case.body(number, dialect))
    return folder


def load(url: str, bodies: Path, count: int, clients: int, seconds: float) -> Result:
    """
    Raises:
        LoadFailed: any request was refused, lost or cut off.
    """
    command = ["wrk", "-t1", f"-c{clients}", f"-d{round(seconds)}s", "--timeout", f"{TIMEOUT_S}s", "-s", str(SCRIPT)]
    done = subprocess.run(
        [*command, url, "--", str(bodies), str(count)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 2 * TIMEOUT_S,
    )
    if done.returncode:
        raise LoadFailed(f"wrk ended with {done.returncode}: {done.stderr[-500:]}{done.stdout[-500:]}")
    return parse(done.stdout.splitlines())


def parse(lines: Sequence[str]) -> Result:
    """What load.lua prints at the end."""
    told = next((line.split() for line in lines if line.startswith("RESULT ")), None)
    histogram = next((line.split() for line in lines if line.startswith("LATENCY")), None)
    if told is None or histogram is None:
        raise LoadFailed("wrk told nothing")
    requests, duration_us, size, *errors = map(int, told[1:])
    failures = dict(zip(("connect", "read", "write", "status", "timeout"), errors, strict=True))
    if any(failures.values()) or not requests:
        raise LoadFailed(f"of {requests} requests failed: {failures}")
    pairs = (pair.partition(":") for pair in histogram[1:])
    return Result(requests, duration_us / 1e6, size, {int(value): int(count) for value, _, count in pairs})
