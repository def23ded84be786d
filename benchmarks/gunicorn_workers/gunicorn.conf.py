"""One configuration for both workers; what differs comes from the unit's environment file."""

import os

worker_class = os.environ["BENCH_WORKER"]
asgi_loop = "uvloop"
workers = 1
keepalive = int(os.environ.get("BENCH_KEEPALIVE_S", "2"))
graceful_timeout = int(os.environ.get("BENCH_GRACEFUL_S", "10"))
asgi_disconnect_grace_period = int(os.environ.get("BENCH_DISCONNECT_GRACE_S", "0"))
control_socket_disable = True

# gunicorn says READY=1 before it imports the application. Without the variable it stays silent, and the application
# says it from its lifespan's start instead.
if os.environ.get("BENCH_GATE", "1") == "1":
    os.environ["BENCH_NOTIFY_SOCKET"] = os.environ.pop("NOTIFY_SOCKET", "")
