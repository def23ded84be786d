"""Notifies systemd of the service's state: READY, STOPPING, WATCHDOG, STATUS (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket

_log = logging.getLogger("bedplate.notify")


def notify(*lines: str, address: str | None = None) -> bool:
    """Send `lines` to `address` or $NOTIFY_SOCKET; return False if nothing listens or sending failed."""
    address = address or os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            sock.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        # Whoever feeds the watchdog goes on: the next one may get through.
        _log.warning("systemd was not told %s: %s", lines[0], error)
        return False
    return True


def watchdog_interval_s() -> float | None:
    """Return a third of systemd's watchdog timeout; None if there is no watchdog."""
    usec = os.environ.get("WATCHDOG_USEC")
    return int(usec) / 3e6 if usec else None
