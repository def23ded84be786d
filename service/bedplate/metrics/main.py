"""The metrics program: reads the metrics of this host's units from unix sockets, and serves them by HTTP."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from types import FrameType

from prometheus_client import CollectorRegistry, generate_latest

from bedplate.metrics.reader import read_all
from bedplate.metrics.server import Server
from bedplate.metrics.settings import MetricsSettings
from bedplate.metrics.units import Units
from bedplate.process import log
from bedplate.process.notify import notify
from bedplate.process.settings import SettingsError
from bedplate.telemetry import exposition

_log = logging.getLogger(__name__)
_FIRST_PASSED_FD = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_BACKLOG = 16


def run(settings: MetricsSettings, bind: str | None = None) -> int:
    """Serve until SIGTERM, on the socket that systemd passed or on `bind` (host:port).

    Raises:
        SettingsError: no socket was passed, or `bind` cannot be bound.
    """
    log.start("bedplate-metrics")
    listener = _bound(bind) if bind else _passed()
    registry = CollectorRegistry()
    registry.register(Units(settings.sockets, read_all, exposition.new_registry()))
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    with Server(listener, lambda: generate_latest(registry)) as server:
        notify("READY=1", f"STATUS=telling of {len(settings.sockets)} units")
        _log.info("ready", extra={"units": [path.stem for path in settings.sockets]})
        server.serve_forever()
    return 0


def _passed() -> socket.socket:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise SettingsError("systemd passed no socket; start bedplate-metrics.socket, or add --bind HOST:PORT")
    return socket.socket(fileno=_FIRST_PASSED_FD)


def _bound(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server((host, int(port)), backlog=_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"--bind: {address!r} does not do ({error}), wanted a free HOST:PORT") from None


def _stop(signum: int, frame: FrameType | None) -> None:
    sys.exit(0)
