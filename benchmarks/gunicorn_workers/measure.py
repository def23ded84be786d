"""gunicorn's own ASGI worker against uvicorn's, under systemd's sockets: the figures of docs/adr/0006.

Run as root, from the repository's root, on a disposable systemd host that has nginx and wrk, with the python of a
virtualenv that holds gunicorn, falcon, uvloop, uvicorn, uvicorn-worker and httptools:

    python -m benchmarks.gunicorn_workers.measure [figure …]

Units and configuration live in /run and are gone with the host.
"""

import asyncio
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.gunicorn_workers.host import (
    NGINX_PORT,
    PORTS,
    RUN,
    WORKERS,
    command,
    configure,
    nginx_errors,
    prepare,
    serve,
    serve_nginx,
    systemctl,
    wait_until,
)
from tools.load.http1 import request_bytes
from tools.load.ledger import summarise
from tools.load.plan import Plan, constant_arrivals, read_target
from tools.load.run import run

BODY = b"x" * 256
WEB = f"bench@{PORTS[0]}.service"  # the instance that is stopped and restarted


def throughput() -> None:
    """wrk straight at one worker, the two taking turns; medians of five runs of four seconds."""
    (RUN / "post.lua").write_text(f'wrk.method = "POST"; wrk.body = string.rep("x", {len(BODY)})')
    places = list(zip(PORTS, WORKERS, strict=True))
    for port, worker in places:
        serve(port, worker)
    seen: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for (port, worker), connections in itertools.product(places * 5, (1, 64)):
        seen.setdefault((worker, connections), []).append(wrk(port, connections))
    for (worker, connections), runs in seen.items():
        per_s, p50, p99 = (round(statistics.median(column), 3) for column in zip(*runs, strict=True))
        report("throughput", worker=worker, connections=connections, per_s=per_s, p50_ms=p50, p99_ms=p99)


def wrk(port: int, connections: int) -> tuple[float, float, float]:
    """Requests per second, p50 and p99 in milliseconds."""
    url = f"http://127.0.0.1:{port}/predict"
    out = command("wrk", "-t1", f"-c{connections}", "-d4s", "--latency", "-s", RUN / "post.lua", url)
    per_s = float(re.findall(r"Requests/sec:\s+([\d.]+)", out)[0])
    latencies = dict(re.findall(r"^ +(50|99)% +(\S+)$", out, re.M))
    return per_s, in_ms(latencies["50"]), in_ms(latencies["99"])


def in_ms(text: str) -> float:
    number, unit = re.findall(r"([\d.]+)(us|ms|s)", text)[0]
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def stop(worker: str, keepalive_s: int, nginx_idle_s: int) -> None:
    """How long `systemctl stop` takes just after a burst left idle connections from nginx; median of three."""
    serve_nginx(nginx_idle_s)
    took = []
    for _ in range(3):
        for port in PORTS:
            serve(port, worker, keepalive_s=keepalive_s)
        load(rate=200, seconds=0.1, path="/slow/0.2")
        took.append(systemctl("stop", WEB))
    report("stop", worker=worker, keepalive_s=keepalive_s, nginx_idle_s=nginx_idle_s, stop_s=statistics.median(took))


def stop_unused(worker: str) -> None:
    serve(PORTS[0], worker)
    report("stop without connections", worker=worker, stop_s=systemctl("stop", WEB))


def ready(worker: str, gate: int) -> None:
    """When systemd takes the unit for started, with an import of two seconds and with one that fails."""
    serve(PORTS[0], worker)
    systemctl("stop", WEB)
    configure(PORTS[0], worker, import_s=2, gate=gate)
    took = systemctl("start", WEB)
    systemctl("stop", WEB)
    configure(PORTS[0], worker, broken=1, gate=gate)
    broken = subprocess.run(["systemctl", "start", WEB], capture_output=True, check=False)
    report("ready", worker=worker, gate=gate, start_s=took, broken_counts_as_started=broken.returncode == 0)


def slow(worker: str) -> None:
    """Stop while a request of three seconds is in flight, straight at the worker."""
    serve(PORTS[0], worker)
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(load(1, 1, "/slow/3", PORTS[0])))
    thread.start()
    time.sleep(0.5)
    took = systemctl("stop", WEB)
    thread.join()
    report("slow", worker=worker, statuses=answers[0]["statuses"], errors=answers[0]["errors"], stop_s=took)


def gone(worker: str, port: int, grace_s: int) -> None:
    """Whether the application hears that its client has left, straight and through nginx.

    `grace_s` is gunicorn's asgi_disconnect_grace_period; uvicorn's worker knows nothing like it.
    """
    for web in PORTS:
        serve(web, worker, disconnect_grace_s=grace_s)
    serve_nginx(idle_s=60)
    watch = RUN / "watch"
    watch.unlink(missing_ok=True)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request_bytes("POST", "/watch", {"Host": "bench"}, BODY))
        wait_until(lambda: watch.exists() and watch.read_text() == "waiting")
        left = time.monotonic()
    time.sleep(4)
    story = {
        event: round(float(at) - left, 2) for event, at in re.findall(r"(told|cancelled) ([\d.]+)", watch.read_text())
    }
    via = "nginx" if port == NGINX_PORT else "direct"
    report("gone", worker=worker, via=via, grace_s=grace_s, seconds_after=story)


def drain(worker: str, keepalive_s: int, nginx_idle_s: int) -> None:
    """100 POST/s through nginx for 60 s while one of two instances is restarted ten times."""
    for port in PORTS:
        serve(port, worker, keepalive_s=keepalive_s)
    serve_nginx(nginx_idle_s)
    load(rate=100, seconds=2)
    restarts: list[float] = []
    thread = threading.Thread(target=restart_ten_times, args=[restarts])
    thread.start()
    summary = load(rate=100, seconds=60)
    thread.join()
    report("drain", worker=worker, keepalive_s=keepalive_s, nginx_idle_s=nginx_idle_s, sent=summary["sent"],
           failed=summary["failed"], nginx_errors=nginx_errors(), restart_s=statistics.median(restarts),
           **summary["latency_ms"])  # fmt: skip


def restart_ten_times(took: list[float]) -> None:
    for _ in range(10):
        took.append(systemctl("restart", WEB))
        time.sleep(max(0.0, 5.8 - took[-1]))


def load(rate: float, seconds: float, path: str = "/predict", port: int = NGINX_PORT) -> dict[str, Any]:
    plan = Plan(
        target=read_target(f"http://127.0.0.1:{port}/", None, None),
        requests=[request_bytes("POST", path, {"Host": "bench"}, BODY)],
        arrivals=constant_arrivals(rate, seconds),
        expected={},
    )
    return summarise(asyncio.run(run(plan)))


def report(figure: str, **values: object) -> None:
    rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in values.items()}
    print(json.dumps({"figure": figure, **rounded}), flush=True)


Step = tuple[Callable[..., None], list[tuple[Any, ...]]]
# The workers take turns within each figure, so that both meet the same noise of the machine.
FIGURES: dict[str, list[Step]] = {
    "throughput": [(throughput, [()])],
    "stop": [
        (stop_unused, [(worker,) for worker in WORKERS]),
        (stop, [(worker, *idle) for idle in ((2, 60), (5, 60), (75, 30), (5, 1)) for worker in WORKERS]),
    ],
    "ready": [(ready, [(worker, gate) for gate in (0, 1) for worker in WORKERS])],
    "slow": [(slow, [(worker,) for worker in WORKERS])],
    "gone": [
        (gone, [(worker, port, grace) for port in (PORTS[0], NGINX_PORT) for worker in WORKERS for grace in (0, 3)])
    ],
    "drain": [(drain, [(worker, *idle) for idle in ((2, 60), (5, 60), (75, 30), (5, 1)) for worker in WORKERS])],
}


def main() -> None:
    prepare()
    for name in sys.argv[1:] or FIGURES:
        for step, calls in FIGURES[name]:
            for arguments in calls:
                step(*arguments)


if __name__ == "__main__":
    main()
