"""One request on its way through the device, and what the device thread asks of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from bedplate.errors import ServiceError
from bedplate.wire import INTERACTIVE

# A priority that no caller has: an item of zeros that tells whether the device still answers.
PROBE = -1
Key = tuple[str, str]  # name and version of a model
Array = npt.NDArray[Any]  # in the dtype of the bundle's input or output (bedplate/dtypes.py)
Finish = Callable[[], Array]


class Runnable(Protocol):
    """A model, as the device thread sees it."""

    max_items: int  # in one batch
    max_cost: int  # of all items of a batch
    bundle: Any  # name and version tell what is served
    # True where the device computes one batch while the next one is sent to it; then there is `begin`, too:
    # inputs (items, *shape) → a function that waits for the outputs (items, *output shape).
    overlaps: bool

    def run(self, items: Array) -> Array:
        """(items, *shape) → (items, *output shape).

        Raises:
            DeviceOutOfMemory, DeviceLost: see faults.py. Anything else is the fault of what was sent.
        """


@dataclass(eq=False, slots=True)
class Work:
    """Goes in with `inputs`, comes back settled with `outputs` or `error`."""

    model: Runnable
    inputs: Array  # (items, *input shape)
    deadline_ns: int = 0  # absolute, CLOCK_MONOTONIC; 0 is none
    caller: Any = None  # whom `deliver` gives it back to
    request_id: int = 0
    cost: int = 0  # of all its items; as many as there are items unless the bundle counts otherwise
    priority: int = INTERACTIVE
    cancelled: bool = False
    submitted_ns: int = 0
    number: int = 0  # in the order of arrival

    outputs: Array | None = None  # (items, *output shape); None until settled, and with an error
    error: ServiceError | None = None
    queue_ns: int = 0  # until it was taken for a batch
    batch_ns: int = 0  # until the device began
    compute_ns: int = 0
    batch_items: int = 0

    def __post_init__(self) -> None:
        self.cost = self.cost or len(self.inputs)

    @property
    def items(self) -> int:
        return len(self.inputs)

    @property
    def bucket(self) -> tuple[Any, ...]:
        """Requests of one bucket may share a batch: one model, one shape."""
        return self.model, self.inputs.shape[1:]

    @property
    def urgency(self) -> tuple[int, float, int]:
        """Sorts what goes first: interactive before batch, then the earlier deadline, then who came first."""
        return self.priority, self.deadline_ns or float("inf"), self.number

    def is_late(self, now_ns: float) -> bool:
        return 0 < self.deadline_ns <= now_ns


def key_of(model: Runnable) -> Key:
    return model.bundle.name, model.bundle.version
