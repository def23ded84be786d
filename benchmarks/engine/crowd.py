"""What clients who send full batches one after another do to one who names no time, and to the health check."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator, Sequence

from benchmarks.engine.bundles import lamp_item, write_lamp
from benchmarks.engine.report import Row, at_least, at_most, exactly
from benchmarks.engine.stack import Stack, scratch, stack

MAX_ITEMS = 8
# 20 ms + 10 ms * n, asleep.
BATCHES_PER_S = 10
# Models with a heavy fixed cost, each of which has a canary.
HEAVY = ("sleeping", "--base-ms", "250", "--item-ms", "1")
HEAVY_MODELS = 3
READY_WITHIN_S = 2.0
PATIENT_WITHIN_S = 3.0
_BACK_OFF_S = 0.05
# As installed: what a client gets who names no time.
_PATIENT = {"request_timeout_s": 30.0}


def measure(quick: bool) -> list[Row]:
    seconds = 6 if quick else 25
    with (
        scratch() as folder,
        stack([write_lamp(folder, max_items=MAX_ITEMS)], folder=folder, web_settings=_PATIENT) as running,
    ):
        rows = _patience(running, seconds)
    with scratch() as folder:
        bundles = [write_lamp(folder, name=name, max_items=MAX_ITEMS) for name in _heavy_names()]
        with stack(bundles, HEAVY, folder=folder, web_settings=_PATIENT) as running:
            for clients in (1, 4) if quick else (1, 4, 16, 32):
                rows += _readiness(running, clients, seconds)
    return rows


def _heavy_names() -> list[str]:
    return [f"lamp{number}" for number in range(HEAVY_MODELS)]


def _patience(running: Stack, seconds: float) -> list[Row]:
    with _crowd(running, 4, "lamp", "500") as alone:
        alone_s = _wait(seconds)
        alone_per_s = _good(alone) / alone_s
    with _crowd(running, 4, "lamp", "500") as hurried, _crowd(running, 1, "lamp", None) as patient:
        took_s = _wait(seconds)
        batches = _good(hurried + patient) / took_s
    waited = max((took for took, status in patient if status == 200), default=None)
    return [
        Row("goodput of four that name 500 ms", f"{alone_per_s:.2f} batches/s"),
        at_least("goodput with one that names nothing", batches, 0.9 * BATCHES_PER_S, "batches/s"),
        at_most("  it waits", waited, PATIENT_WITHIN_S, "s"),
        Row("  answers to it", f"{len(patient)}: {_statuses(patient)}; to the others {_statuses(hurried)}"),
    ]


def _readiness(running: Stack, clients: int, seconds: float) -> list[Row]:
    asked: list[tuple[float, int]] = []
    with contextlib.ExitStack() as crowds:
        answered = [
            crowds.enter_context(_crowd(running, len(range(turn, clients, HEAVY_MODELS)), name, "4000"))
            for turn, name in enumerate(_heavy_names())
        ]
        started = time.monotonic()
        while time.monotonic() < started + seconds:
            asked.append(_ask(running, "GET", "/health/ready", b"", {}))
            time.sleep(0.5)
        good_per_s = sum(map(_good, answered)) / (time.monotonic() - started)
    return [
        exactly(f"ready at {clients} clients", _statuses(asked), f"200: {len(asked)}"),
        at_most("  within", max(took for took, _ in asked), READY_WITHIN_S, "s"),
        Row("  batches answered", f"{good_per_s:.2f}/s"),
    ]


@contextlib.contextmanager
def _crowd(running: Stack, clients: int, model: str, timeout_ms: str | None) -> Iterator[list[tuple[float, int]]]:
    """Each sends a full batch, waits for the answer, and sends the next; complete when it has been left."""
    records: list[tuple[float, int]] = []
    given_up = threading.Event()
    body = lamp_item(0.5).tobytes() * MAX_ITEMS
    headers = {
        "Authorization": f"Bearer {running.key}",
        "Content-Type": "application/octet-stream",
        "Cache-Control": "no-cache",
    }
    if timeout_ms:
        headers["X-Request-Timeout-Ms"] = timeout_ms

    def come() -> None:
        while not given_up.is_set():
            record = _ask(running, "POST", f"/v1/models/{model}/predict", body, headers)
            if not given_up.is_set() or timeout_ms is None:
                records.append(record)
            if record[1] != 200:
                given_up.wait(_BACK_OFF_S)

    threads = [threading.Thread(target=come) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield records
    finally:
        given_up.set()
        for thread in threads:
            thread.join()


def _ask(running: Stack, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[float, int]:
    """How long it took, in seconds, and the status."""
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", running.ports[0], timeout=90)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return time.monotonic() - started, answer.status
    finally:
        connection.close()


def _wait(seconds: float) -> float:
    """How long it was."""
    started = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - started


def _good(records: Sequence[tuple[float, int]]) -> int:
    return sum(status == 200 for _, status in records)


def _statuses(records: Sequence[tuple[float, int]]) -> str:
    """'200: 812, 429: 40'."""
    counts = {status: sum(status == each for _, each in records) for status in sorted({each for _, each in records})}
    return ", ".join(f"{status}: {count}" for status, count in counts.items())
