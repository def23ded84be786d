"""Open-loop load of lamp pictures on the webs of a stack; each answer is judged by its numbers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks.engine.bundles import BODIES, brightness_of, lamp_item, read_lamp
from benchmarks.engine.stack import Stack
from tools.load.http1 import request_bytes
from tools.load.ledger import Record
from tools.load.plan import Plan, read_target
from tools.load.run import run

DEADLINE_S = 0.5


@dataclass
class Load:
    """What became of the requests, web by web. Complete when `under_load` has been left."""

    started: float = 0.0  # on the monotonic clock; records count from it
    records: list[list[Record]] = field(default_factory=list)
    versions: list[dict[int, int]] = field(default_factory=list)  # of right answers, by a request's number

    @property
    def all(self) -> list[Record]:
        return [record for records in self.records for record in records]


@contextmanager
def under_load(
    stack: Stack, arrivals: Sequence[float], deadline_s: float = DEADLINE_S, path: str = "/v1/models/lamp/predict"
) -> Iterator[Load]:
    """The body runs while the load does; leaving waits for the end of its schedule, unless by an exception."""
    load = Load()
    given_up = threading.Event()
    running = _until(given_up, _run(load, stack, arrivals, deadline_s, path))
    thread = threading.Thread(target=lambda: uvloop.run(running), name="load")
    thread.start()
    try:
        yield load
    except BaseException:
        given_up.set()
        raise
    finally:
        thread.join()


async def _until(given_up: threading.Event, running: Coroutine[Any, Any, None]) -> None:
    """Runs to its end, or until nobody wants it any more: half a load has no figures."""
    task = asyncio.create_task(running)
    while not task.done() and not given_up.is_set():
        await asyncio.wait([task], timeout=0.5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _run(load: Load, stack: Stack, arrivals: Sequence[float], deadline_s: float, path: str) -> None:
    load.versions = [{} for _ in stack.ports]
    plans = [
        _plan(stack, port, arrivals[turn :: len(stack.ports)], deadline_s, path, load.versions[turn])
        for turn, port in enumerate(stack.ports)
    ]
    load.started = time.monotonic()
    load.records = await asyncio.gather(*(run(plan) for plan in plans))


def _plan(
    stack: Stack, port: int, arrivals: Sequence[float], deadline_s: float, path: str, versions: dict[int, int]
) -> Plan:
    def is_right(number: int, body: bytes) -> bool:
        version = version_if_right(body, brightness_of(number))
        if version is not None:
            versions[number] = version
        return version is not None

    return Plan(
        target=read_target(f"http://127.0.0.1:{port}", None, None),
        requests=[lamp_request(stack.key, path, brightness_of(body), deadline_s) for body in range(BODIES)],
        arrivals=list(arrivals),
        expected={},
        is_right=is_right,
        # Past the service's own: its 504 is to be seen, and an answer that comes too late too.
        timeout_s=deadline_s + 5,
        max_connections=2048,
    )


def lamp_request(key: str, path: str, brightness: float, deadline_s: float = DEADLINE_S) -> bytes:
    return raw_request(key, path, lamp_item(brightness).tobytes(), deadline_s)


def raw_request(key: str, path: str, body: bytes, deadline_s: float) -> bytes:
    headers = {
        "Host": "bench",
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/octet-stream",
        "Cache-Control": "no-cache",
        "X-Request-Timeout-Ms": str(round(deadline_s * 1000)),
    }
    return request_bytes("POST", path, headers, body)


def version_if_right(body: bytes, brightness: float) -> int | None:
    """The version that answered, if its numbers are those of this brightness and of the version it names."""
    try:
        document = json.loads(body)
        [prediction] = document["predictions"]
        seen, version = read_lamp(prediction["scores"])
        agrees = seen == brightness and version == int(document["version"])
        return int(version) if agrees and prediction["label"] == ("bright" if brightness > 0 else "dark") else None
    except (ValueError, KeyError, TypeError):
        return None


def is_good(record: Record, deadline_s: float = DEADLINE_S) -> bool:
    """Right, and in time from the moment at which it was due."""
    return not record.failed and record.latency_s <= deadline_s


def fates(records: Sequence[Record]) -> str:
    """How many ended how: '200: 812, 429: 40, timeout: 1'."""
    counts = Counter(record.error or str(record.status) for record in records)
    return ", ".join(f"{fate}: {count}" for fate, count in sorted(counts.items())) or "none"


def normal_after_s(records: Sequence[Record], moment_s: float, deadline_s: float = DEADLINE_S) -> float | None:
    """How long after `moment_s` the first whole second begins in which every request that was due went well."""
    good_in: dict[int, bool] = {}
    for record in records:
        if record.intended >= moment_s:
            second = int(record.intended - moment_s)
            good_in[second] = good_in.get(second, True) and is_good(record, deadline_s)
    return next((float(second) for second, good in sorted(good_in.items()) if good), None)
