"""Tells systemd that the device thread makes progress, and stays silent when it does not."""

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
    """Send WATCHDOG=1 every `interval_s` if the device answered something since the last time.

    An idle device gets a `probe`, one warm-up item, so that a hang shows before a caller meets it. A busy one gets it
    when nothing succeeded for an interval: requests on which a model fails are no reason to restart an engine, but a
    device that fails on its probe is.
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
