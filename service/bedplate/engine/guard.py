"""Tells torch's errors about the device from errors that a batch causes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from bedplate.engine.faults import DeviceLost, DeviceOutOfMemory

T = TypeVar("T")
_LACK_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def guarded(call: Callable[[], T]) -> T:
    """Return the result of `call`. Torch's errors about the device are translated; others pass.

    Raises:
        DeviceOutOfMemory, DeviceLost: see there.
    """
    try:
        return call()
    except (RuntimeError, MemoryError) as error:
        fault = _fault_of(error)
        if fault is None:
            raise
    # Out here, where torch's error is gone: its traceback held the tensors of the layers that ran.
    if isinstance(fault, DeviceOutOfMemory):
        torch.cuda.empty_cache()  # does nothing where CUDA is not in use
    raise fault


def _fault_of(error: Exception) -> Exception | None:
    said = str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in said for sign in _LACK_OF_MEMORY):
        return DeviceOutOfMemory(said)
    if isinstance(error, torch.AcceleratorError) or said.startswith("CUDA error"):
        return DeviceLost(said)
    return None
