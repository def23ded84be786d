"""The faults of a device, in terms that need no torch."""

from __future__ import annotations


class DeviceOutOfMemory(Exception):
    """The batch did not fit into the memory of the device. The device still works, and fewer items may fit."""


class DeviceLost(Exception):
    """The device fails every call from this process; only a new process can use it."""
