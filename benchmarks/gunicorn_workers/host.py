"""The host under test: two instances of one worker on sockets that systemd holds, and nginx before them."""

import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
RUN = Path("/run/bench")
UNITS = Path("/run/systemd/system")
WORKERS = {"gunicorn": "asgi", "uvicorn": "uvicorn_worker.UvicornWorker"}
PORTS = (8001, 8002)
NGINX_PORT = 8080

SOCKET_UNIT = """
[Socket]
ListenStream=127.0.0.1:%i
"""
SERVICE_UNIT = f"""
[Unit]
Requires=bench@%i.socket
StartLimitIntervalSec=0
[Service]
Type=notify
# The worker says READY, not gunicorn's arbiter: see gunicorn.conf.py.
NotifyAccess=all
EnvironmentFile=/run/bench/%i.env
WorkingDirectory={HERE}
ExecStart={sys.executable} -m gunicorn --config gunicorn.conf.py app:app
KillMode=mixed
# Longer than gunicorn's graceful_timeout (10 s).
TimeoutStopSec=20
TimeoutStartSec=5
"""
NGINX_CONFIG = """
daemon off; pid /run/bench/nginx.pid; error_log /run/bench/nginx.log warn;
events { worker_connections 1024; }
http {
  access_log off;
  upstream web {
    least_conn;
    server 127.0.0.1:8001;
    server 127.0.0.1:8002;
    keepalive 32;
    keepalive_timeout IDLE_Ss;
  }
  server {
    listen 127.0.0.1:8080;
    location / {
      proxy_pass http://web;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream error timeout http_502 http_503 non_idempotent;
      proxy_next_upstream_tries 2;
    }
  }
}
"""


def prepare() -> None:
    RUN.mkdir(exist_ok=True)
    (UNITS / "bench@.socket").write_text(SOCKET_UNIT)
    (UNITS / "bench@.service").write_text(SERVICE_UNIT)
    systemctl("daemon-reload")


def command(*words: object, check: bool = True) -> str:
    return subprocess.run([str(word) for word in words], check=check, capture_output=True, text=True).stdout


def systemctl(*words: object, check: bool = True) -> float:
    """Seconds that it took."""
    started = time.monotonic()
    command("systemctl", *words, check=check)
    return time.monotonic() - started


def configure(port: int, worker: str, **settings: object) -> None:
    lines = [f"BENCH_WORKER={WORKERS[worker]}"] + [f"BENCH_{name.upper()}={value}" for name, value in settings.items()]
    (RUN / f"{port}.env").write_text("\n".join(lines))


def serve(port: int, worker: str, **settings: object) -> None:
    configure(port, worker, **settings)
    systemctl("stop", f"bench@{port}.service")
    systemctl("start", f"bench@{port}.socket", f"bench@{port}.service")


def serve_nginx(idle_s: int) -> None:
    """`idle_s`: how long nginx keeps a connection to an instance that carries nothing."""
    systemctl("stop", "bench-nginx", check=False)
    (RUN / "nginx.log").unlink(missing_ok=True)
    (RUN / "nginx.conf").write_text(NGINX_CONFIG.replace("IDLE_S", str(idle_s)))
    command("systemd-run", "--unit=bench-nginx", "nginx", "-c", RUN / "nginx.conf")
    wait_until(nginx_listens)


def nginx_listens() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", NGINX_PORT)) == 0


def nginx_errors() -> dict[str, int]:
    """What an instance did to nginx, which then asked the other one, and how often."""
    lines = (RUN / "nginx.log").read_text()
    return dict(Counter(re.findall(r"\[error\] [^*]*\*\d+ (.+?) while", lines)))


def wait_until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{condition} was not met within {deadline_s} s")
        time.sleep(0.02)
