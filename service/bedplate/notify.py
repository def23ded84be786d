"""Tell systemd how the service is: READY, STOPPING, WATCHDOG, STATUS (sd_notify(3))."""

from __future__ import annotations

import os
import socket


def notify(*lines: str, address: str | None = None) -> bool:
    """Send `lines` to `address` or $NOTIFY_SOCKET; False where nobody listens (a laptop, a test)."""
    address = address or os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto("\n".join(lines).encode(), address)
    return True


def watchdog_interval_s() -> float | None:
    """A third of the time systemd waits for a sign of life; None where it watches nothing."""
    usec = os.environ.get("WATCHDOG_USEC")
    return int(usec) / 3e6 if usec else None
