"""The decoder program turns untrusted files into tensors, in a process that may crash on them (docs/adr/0017)."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

from bedplate.decode.settings import DecodeSettings
from bedplate.decode.supervisor import supervise
from bedplate.decode.worker import SILENCE_S, Worker
from bedplate.process import endpoint, log, notify, settings
from bedplate.process.instance import require_number

# More that wait than this are refused at once: at the next decoder, or with 429.
BACKLOG = 64
# Times of the processor's time that a file may need of the clock's, where others want the processor too.
_BUSY = 3


def run(settings_file: Path, instance: str) -> int:
    """Decode until SIGTERM.

    Raises:
        SettingsError: a setting or the number of the instance cannot be used.
    """
    log.start(f"bedplate-decode@{instance}")
    require_number(instance)
    decode = settings.load(DecodeSettings, settings_file)
    folder = decode.socket_dir / instance
    # Under systemd it is there, with the group of those who may connect.
    folder.mkdir(exist_ok=True)
    listener = endpoint.bind(folder / "decode.sock", backlog=BACKLOG)
    # One that is old leaves once it has answered, which takes this long at most on a busy machine.
    longest_s = decode.max_age_s + _BUSY * decode.max_cpu_s + SILENCE_S
    try:
        supervise(lambda kept: _work(listener, decode, kept), lambda: notify.notify("READY=1"), longest_s)
    finally:
        Path(listener.getsockname()).unlink(missing_ok=True)
    return 0


def _work(listener: socket.socket, decode: DecodeSettings, kept: int) -> None:
    # What was imported before stays shared with the process that comes next.
    gc.freeze()
    Worker(listener, decode, kept).run()
