"""One request in the queue of the device, and the interface of a model that the device thread uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt

from bedplate.errors import ServiceError
from bedplate.wire import BATCH, INTERACTIVE, PROBE

# A request is due when its deadline ends, and this long after it came at the latest: who names little time may go
# before who names much, but not for ever.
_DUE_WITHIN_NS = 1_000_000_000
# What else may be put off. A job stands where a person's request would that comes so much later.
_PUT_OFF_NS = {INTERACTIVE: 0, BATCH: 9_000_000_000}
Key = tuple[str, str]  # name and version of a model
Array = npt.NDArray[Any]  # in the dtype of the bundle's input or output (bedplate/bundle/dtypes.py)
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
        """Compute (items, *output shape) of (items, *shape).

        Raises:
            DeviceOutOfMemory, DeviceLost: see faults.py. Any other error is the fault of the input.
        """


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """A request that enters with `inputs` and comes back with `outputs` or `error`."""

    model: Runnable
    inputs: Array  # (items, *input shape)
    deadline_ns: int = 0  # absolute, CLOCK_MONOTONIC; 0 is none
    caller: Any = None  # whom `deliver` gives it back to
    request_id: int = 0
    cost: int = 0  # of all its items; as many as there are items unless the bundle counts otherwise
    priority: int = INTERACTIVE
    alone: bool = False  # an engine has ended that computed it
    items: int = field(init=False)
    shape: tuple[int, ...] = field(init=False)  # of one item
    cancelled: bool = False
    submitted_ns: int = 0
    number: int = 0  # in the order of arrival
    due_ns: int = 0  # what sorts those that wait; 0 is before all others

    outputs: Array | None = None  # (items, *output shape); None until settled, and with an error
    error: ServiceError | None = None
    queue_ns: int = 0  # until it was taken for a batch
    batch_ns: int = 0  # until the device began
    compute_ns: int = 0
    batch_items: int = 0

    def __post_init__(self) -> None:
        shape = self.inputs.shape
        self.items, self.shape = shape[0], shape[1:]
        self.cost = self.cost or self.items

    @property
    def bucket(self) -> tuple[Any, ...]:
        """The model and shape of the request: only requests of one bucket may share a batch."""
        return (self.model, self.shape, self.number) if self.alone else (self.model, self.shape)

    def come(self, now_ns: int, number: int) -> None:
        """Note the time of arrival. It fixes when the request is due: requests that are due later stay behind it."""
        self.submitted_ns, self.number = now_ns, number
        if self.priority != PROBE:
            due_ns = now_ns + _DUE_WITHIN_NS
            if 0 < self.deadline_ns < due_ns:
                due_ns = self.deadline_ns
            self.due_ns = due_ns + _PUT_OFF_NS[self.priority]

    @property
    def time_ns(self) -> float:
        """The time that it had left when it arrived."""
        return self.deadline_ns - self.submitted_ns if self.deadline_ns else math.inf

    @property
    def urgency(self) -> tuple[int, int]:
        """The sort key: requests that are due sooner come first, then those that arrived first."""
        return self.due_ns, self.number

    def is_late(self, now_ns: float) -> bool:
        return 0 < self.deadline_ns <= now_ns


def key_of(model: Runnable) -> Key:
    return model.bundle.name, model.bundle.version
