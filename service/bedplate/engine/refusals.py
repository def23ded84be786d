"""The errors for requests that the engine turns away."""

from __future__ import annotations

import math

from bedplate.engine.work import QueuedRequest
from bedplate.errors import DeadlineExceeded, Draining, EngineBusy


def draining() -> Draining:
    return Draining("the engine is stopping", next_step="send it to another engine", retry_after_s=1)


def too_late(work: QueuedRequest, now_ns: float) -> DeadlineExceeded:
    late_ms = (now_ns - work.deadline_ns) / 1e6
    return DeadlineExceeded(
        f"the deadline passed {late_ms:.0f} ms before the device was free",
        value=round(late_ms),
        limit=0,
        next_step="allow more time, or retry when there is less to do",
    )


def too_short(left_ns: float, least_ns: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{left_ns / 1e6:.0f} ms are left, and this takes {least_ns / 1e6:.0f} ms on an idle device",
        value=round(left_ns / 1e6),
        limit=math.ceil(least_ns / 1e6),
        next_step="allow more time, or send fewer items",
    )


def full(depth: int, limit: int, free_in_ns: float) -> EngineBusy:
    return EngineBusy(
        f"queue holds {depth} of {limit} requests",
        value=depth,
        limit=limit,
        next_step="retry later, or ask the operator for more engines",
        retry_after_s=_whole_seconds(free_in_ns),
    )


def too_much_waits(depth: int, late_ns: float) -> EngineBusy:
    return EngineBusy(
        f"{depth} requests wait, and the answer would come {late_ns / 1e6:.0f} ms too late",
        value=round(late_ns / 1e6),
        limit=0,
        next_step="retry later, allow more time, or ask the operator for more engines",
        retry_after_s=_whole_seconds(late_ns),
    )


def _whole_seconds(time_ns: float) -> int:
    """At least one, as Retry-After counts."""
    return max(1, math.ceil(time_ns / 1e9))
