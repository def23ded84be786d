"""Reads the metrics of every unit of the host at once, with one time limit for all."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from bedplate.telemetry.exposition import END

# A unit answers within milliseconds; a hung one must not hold up the figures of the rest.
TIMEOUT_S = 1.0
# A web with a hundred labels tells 30 KB. A unit that tells more than this is not one of ours.
_MAX_BYTES = 256 << 10


def read_all(paths: Iterable[Path], timeout_s: float = TIMEOUT_S) -> dict[Path, str]:
    """Return what the units at `paths` sent within `timeout_s`, without units that are absent or did not finish."""
    told: dict[Path, str] = {}
    with selectors.DefaultSelector() as selector:
        for path in paths:
            _begin(selector, path)
        try:
            deadline_s = time.monotonic() + timeout_s
            while selector.get_map() and (left_s := deadline_s - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    _receive(selector, key, told)
        finally:
            for key in list(selector.get_map().values()):
                _end(selector, key)
    return told


def _begin(selector: selectors.BaseSelector, path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        # Without waiting: a unit whose queue of connections is full is as good as hung.
        sock.connect(os.fsencode(path))
    except OSError:
        sock.close()
        return
    selector.register(sock, selectors.EVENT_READ, (path, bytearray()))


def _receive(selector: selectors.BaseSelector, key: selectors.SelectorKey, told: dict[Path, str]) -> None:
    path, received = key.data
    try:
        data = _socket(key).recv(1 << 16)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EINTR):
            _end(selector, key)
        return
    received += data
    if data and len(received) <= _MAX_BYTES:
        return
    _end(selector, key)
    if not data and received.endswith(END):
        told[path] = received.decode("utf-8", "replace")


def _end(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    selector.unregister(key.fileobj)
    _socket(key).close()


def _socket(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj
