"""No downloads while a model is imported: what is not in the files at hand stays out of a bundle."""

from __future__ import annotations

import os
import sys
from typing import Any

_REFUSED = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname")


def stay_offline() -> None:
    """From now on this process opens no connection to another host: a guard against surprises, not against attacks."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    # Addresses of this machine's own sockets are no tuples.
    if event in _REFUSED and (event != "socket.connect" or isinstance(arguments[1], tuple)):
        raise PermissionError("an import opens no connection; put what the model needs beside its files")
