"""Goodput of tensors of 8 MB from 4, 32 and 64 clients that honour Retry-After, and the front end's memory.

    .venv/bin/python -m benchmarks.large_bodies [seconds for each]

The engine computes one at a time and sleeps for it, so that whatever is lost is lost before it.
"""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.service.engine_tools import GatedLamp, running_engine
from tests.service.running_service import KEY, running_web

SIDE = 1448  # 4 * 1448 ** 2 bytes
BODY = bytes(4 * SIDE * SIDE)
ITEM_S = 0.1
CLIENTS = (4, 32, 64)
SHARE_LEFT = 0.9
MEMORY_MB = 512


class Sleeper(GatedLamp):
    """Sees nothing in pictures of 8 MB."""

    def __init__(self) -> None:
        image = {"name": "image", "dtype": "float32", "shape": [1, SIDE, SIDE]}
        picture = {"mode": "L", "height": SIDE, "width": SIDE, "scale": 1 / 255, "mean": [0.5], "std": [0.5]}
        super().__init__(inputs=[{**image, "image": picture}], batch={"max_items": 1})

    def run(self, items: Any) -> Any:
        time.sleep(ITEM_S * len(items))
        return super().run(items[:, :, :2, :2])


def main(seconds: float) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_engine(folder / "cpu0.sock", Sleeper()), running_web(folder, cache_ttl_s=0) as port:
            # Clients in a process of their own: threads beside the engine would take turns with it.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rates = {count: pool.apply(_goodput_per_s, (port, count, seconds)) for count in CLIENTS}
            memory_mb = _peak_mb(port)
    worst = min(rates.values()) / rates[CLIENTS[0]]
    print(f"least goodput: {worst:.2f} of that at {CLIENTS[0]} clients (bar: {SHARE_LEFT})")
    print(f"front end's largest memory: {memory_mb} MB (bar: {MEMORY_MB})")
    return int(worst < SHARE_LEFT or memory_mb > MEMORY_MB)


def _goodput_per_s(port: int, clients: int, seconds: float) -> float:
    statuses: Counter[int] = Counter()
    ends_s = time.monotonic() + seconds
    threads = [threading.Thread(target=_client, args=(port, ends_s, statuses)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{clients} clients: {statuses[200] / seconds:.1f}/s; {dict(statuses)}")
    return statuses[200] / seconds


def _client(port: int, ends_s: float, statuses: Counter[int]) -> None:
    """0 counts connections that ended without an answer; what comes after the end is not counted."""
    while time.monotonic() < ends_s:
        status, retry_after_s = _asked(port)
        if time.monotonic() < ends_s:
            statuses[status] += 1
            time.sleep(retry_after_s)


def _asked(port: int) -> tuple[int, float]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/octet-stream"}
    try:
        connection.putrequest("POST", "/v1/models/lamp/predict")
        for name, value in {**headers, "Content-Length": str(len(BODY))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        with contextlib.suppress(OSError):  # refused before all was sent; why is still there to be read
            connection.send(BODY)
        response = connection.getresponse()
        response.read()
        return response.status, float(response.headers.get("Retry-After", 0))
    except OSError:
        return 0, 0
    finally:
        connection.close()


def _peak_mb(port: int) -> int:
    """Of the largest process that serves at `port`."""
    found = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    pids = [line.split()[0] for line in found.splitlines() if f"--bind 127.0.0.1:{port}" in line]
    return max(int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) // 1024 for pid in pids)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 15))
