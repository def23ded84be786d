"""What a device may do to a batch, in words that need no torch."""

from __future__ import annotations


class DeviceOutOfMemory(Exception):
    """The batch did not fit into the memory of the device, which works on; fewer items may fit."""


class DeviceLost(Exception):
    """The device answers nothing any more in this process, whatever it is asked: only a new process can use it."""
