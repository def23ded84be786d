"""Tells systemd that the device thread still gets things done, and nothing when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Watched(Protocol):
    """What the watchdog sees of a batcher."""

    @property
    def idle(self) -> bool: ...

    @property
    def batches(self) -> int: ...  # that brought an answer so far


async def feed(device: Watched, probe: Callable[[], None], notify: Callable[[str], object], interval_s: float) -> None:
    """Every `interval_s`: WATCHDOG=1 if the device answered something since the last time.

    An idle device is given a `probe`, one warm-up item, so that a hung one is noticed before a caller notices. A busy
    one gets it when nothing came out right for an interval: callers who send only what a model fails on are no reason
    to restart an engine, a device that fails on its probe is.
    """
    progressed = True
    while True:
        seen = device.batches
        if device.idle or not progressed:
            probe()
        await asyncio.sleep(interval_s)
        progressed = device.batches != seen
        if progressed:
            notify("WATCHDOG=1")
