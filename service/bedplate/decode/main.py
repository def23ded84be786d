"""The decoder program: strangers' files in, tensors out, in a process that may die of them (docs/adr/0017)."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

from bedplate import endpoint, log, notify, settings
from bedplate.decode.keeper import keep
from bedplate.decode.settings import DecodeSettings
from bedplate.decode.worker import Worker
from bedplate.instance import require_number

# More that wait than this are refused at once: at the next decoder, or with 429.
BACKLOG = 64


def run(settings_file: Path, instance: str) -> int:
    """Decode until SIGTERM.

    Raises:
        SettingsError: a setting or the number of the instance cannot be used.
    """
    log.start(f"bedplate-decode@{instance}")
    require_number(instance)
    decode = settings.load(DecodeSettings, settings_file)
    listener = endpoint.bind(decode.socket_dir / f"{instance}.sock", backlog=BACKLOG)
    try:
        keep(lambda kept: _work(listener, decode, kept), on_ready=lambda: notify.notify("READY=1"))
    finally:
        Path(listener.getsockname()).unlink(missing_ok=True)
    return 0


def _work(listener: socket.socket, decode: DecodeSettings, kept: int) -> None:
    # What was imported before stays shared with the process that comes next.
    gc.freeze()
    Worker(listener, decode, kept).run()
