"""Tells systemd that the device thread still gets things done, and nothing when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Device(Protocol):
    """What the watchdog sees of a batcher."""

    @property
    def idle(self) -> bool: ...

    batches: int  # computed so far


async def feed(device: Device, probe: Callable[[], None], notify: Callable[[str], object], interval_s: float) -> None:
    """Every `interval_s`: WATCHDOG=1 if the device computed a batch since the last time.

    An idle device is given a `probe`, one warm-up item, so that a hung one is noticed before a caller notices.
    """
    while True:
        seen = device.batches
        if device.idle:
            probe()
        await asyncio.sleep(interval_s)
        if device.batches != seen:
            notify("WATCHDOG=1")
