"""Supervises one child process. When an untrusted file kills it, the next child is ready within milliseconds."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable

_log = logging.getLogger("bedplate.decode")
# A child that cannot even begin is not started anew without a pause.
_PAUSE_S = 0.5
_BRIEF_S = 0.05


def supervise(
    work: Callable[[int], None], on_ready: Callable[[], object] = lambda: None, longest_s: float | None = None
) -> None:
    """Run `work` in a child, and in a new one whenever it ends, until SIGTERM.

    Args:
        work: gets a descriptor that becomes readable when the child has to exit, because the supervisor stops or died.
        on_ready: called once the first child runs.
        longest_s: a child that has not exited by itself after this time is killed.
    """
    told, telling = os.pipe()
    stopping = False

    def stop(signum: int, frame: object) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            os.close(telling)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while not stopping:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _be_child(work, told, telling)
        on_ready()
        on_ready = _nothing
        status = _status_of(child, longest_s)
        if status:
            _log.warning("the process that decodes ended", extra={"because": _because(status)})
        if status and time.monotonic() - began < _BRIEF_S:
            time.sleep(_PAUSE_S)


def _status_of(child: int, longest_s: float | None) -> int:
    """Once it has ended."""
    handle = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([handle], [], [], longest_s)
    finally:
        os.close(handle)
    if not ended:
        _log.error("the process that decodes did not leave when its time was over, and is ended")
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _be_child(work: Callable[[int], None], told: int, telling: int) -> None:
    """Never returns: the parent's loop is not the child's."""
    status = 1
    try:
        # Both are the parent's business; a child that is told by the pipe finishes what it does first.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.close(telling)
        work(told)
        status = 0
    except BaseException:
        _log.exception("the process that decodes failed")
    finally:
        os._exit(status)


def _because(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit status {os.WEXITSTATUS(status)}"


def _nothing() -> None:
    pass
