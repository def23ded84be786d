"""Request options: turns a client's timeout into a deadline, and reads its priority."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bedplate import wire
from bedplate.errors import DeadlineExceeded, InvalidPriority, InvalidTimeout

# The engine's deadline is earlier than the client's by this share of the timeout, and by this much at most: what it
# finishes just in time has a way to go through two event loops and nginx before it is an answer in time.
_RESERVE_SHARE = 0.05
_RESERVE_MAX_NS = 50_000_000
# The event loop's timers count in milliseconds, so the end of a wait may come this much before the deadline.
_TIMER_NS = 2_000_000
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_SHOWN = re.compile(r"[A-Za-z0-9.+-]{1,32}", re.ASCII)
Header = Callable[[str], "str | None"]  # by name
_PRIORITIES = {"interactive": wire.INTERACTIVE, "batch": wire.BATCH}


@dataclass(slots=True)  # not frozen, which takes thrice as long; nobody changes it
class RequestOptions:
    """The options of one request, from its first byte to the engine. Both deadlines are absolute, as in frames."""

    deadline_ns: int  # for the client
    engine_deadline_ns: int
    priority: int = wire.INTERACTIVE

    @property
    def left_s(self) -> float:
        return (self.deadline_ns - wire.now_ns()) / 1e9

    def require_time(self) -> None:
        """Check that the client still waits.

        Raises:
            DeadlineExceeded: the deadline has passed.
        """
        if self.deadline_ns <= wire.now_ns():
            raise too_late()

    def narrowed(self, started_ns: int, timeout_us: int | None, priority: int | None) -> RequestOptions:
        """Return options that end `timeout_us` after `started_ns` if that is sooner; None leaves an option as it is."""
        if timeout_us is None and priority is None:
            return self
        priority = self.priority if priority is None else priority
        if timeout_us is None or started_ns + timeout_us * 1000 >= self.deadline_ns:
            return RequestOptions(self.deadline_ns, self.engine_deadline_ns, priority)
        return _ending(started_ns, timeout_us * 1000, priority)


def within(timeout_s: float, priority: int = wire.INTERACTIVE) -> RequestOptions:
    return _ending(wire.now_ns(), int(timeout_s * 1e9), priority)


def _ending(started_ns: int, timeout_ns: int, priority: int) -> RequestOptions:
    deadline_ns = started_ns + timeout_ns
    reserve_ns = min(int(timeout_ns * _RESERVE_SHARE), _RESERVE_MAX_NS)
    return RequestOptions(deadline_ns, deadline_ns - reserve_ns, priority)


def options_of(header: Header, limit_s: float) -> RequestOptions:
    """Return the options in the headers, with `limit_s` as the default and the maximum of the timeout.

    Raises:
        InvalidTimeout, InvalidPriority: a header has an invalid value.
    """
    timeout_ms, priority = header("X-Request-Timeout-Ms"), header("X-Request-Priority")
    if timeout_ms is None and priority is None:
        return within(limit_s)
    return within(min(_timeout_s(timeout_ms, limit_s), limit_s), _priority(priority))


def ran_out(deadline_ns: int, now_ns: int) -> bool:
    """True if a wait that ended now ended because of its deadline."""
    return now_ns >= deadline_ns - _TIMER_NS


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded("no answer within the deadline", next_step="send less, allow more time, or try later")


def _timeout_s(given: str | None, limit_s: float) -> float:
    if given is None:
        return limit_s
    timeout_ms = float(given) if _NUMBER.fullmatch(given) else 0.0
    if timeout_ms <= 0:
        raise InvalidTimeout(
            "X-Request-Timeout-Ms is no number above 0",
            value=_shown(given),
            limit=round(limit_s * 1e3),
            next_step="send milliseconds as a whole or decimal number above 0, or leave the header out",
        )
    return timeout_ms / 1e3


def _priority(given: str | None) -> int:
    if given is None:
        return wire.INTERACTIVE
    if given.lower() not in _PRIORITIES:
        raise InvalidPriority(
            "X-Request-Priority is none that is known",
            value=_shown(given),
            limit="interactive, batch",
            next_step="send interactive or batch, or leave the header out",
        )
    return _PRIORITIES[given.lower()]


def _shown(given: str) -> str | None:
    """What a header held, if it is short and plain enough to be said back."""
    return given if _SHOWN.fullmatch(given) else None
