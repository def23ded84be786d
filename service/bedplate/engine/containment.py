"""Computes a batch so that a failure affects only the items that cause it.

A batch that fails is bisected until the failing items are alone; the others get their answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bedplate.engine.faults import DeviceLost, DeviceOutOfMemory
from bedplate.engine.work import Array

Run = Callable[[Array], Array]


class NotFiniteOutput(Exception):
    """The model returned NaN or infinity for an item."""


@dataclass
class Outcome:
    """The outputs and faults of a batch."""

    outputs: Array | None = None  # (items, *output shape), meaningless where there is a fault; None if nothing came
    faults: dict[int, Exception] = field(default_factory=dict)  # by the position of the item
    too_many: int | None = None  # items that did not fit into the device's memory at once


class Containment:
    """Computes one batch.

    Args:
        run: inputs (items, *shape) → outputs (items, *output shape).
        is_over: checked before each further attempt; once true, failed batches are not bisected any further.
        answerable: returns for each number of the outputs whether an answer may hold it; if not, its item fails.
    """

    def __init__(self, run: Run, is_over: Callable[[], bool], answerable: Callable[[Array], Array] = np.isfinite):
        self._run = run
        self._is_over = is_over
        self._answerable = answerable
        self.outcome = Outcome()

    def compute(self, inputs: Array, first: Run | None = None) -> Outcome:
        """Compute every item, or record it in the outcome's faults.

        Args:
            first: the first attempt, if it has already begun; it replaces the first call of `run`.

        Raises:
            DeviceLost: this process cannot compute anything any more.
        """
        self._items = len(inputs)
        self._attempt(inputs, 0, first or self._run, may_halve=True)
        return self.outcome

    def _attempt(self, inputs: Array, start: int, run: Run, may_halve: bool) -> None:
        try:
            outputs = run(inputs)
            if len(outputs) != len(inputs):
                raise RuntimeError(f"the model answered {len(outputs)} of {len(inputs)} items")
        except DeviceLost:
            raise
        except DeviceOutOfMemory as error:
            self.outcome.too_many = min(self.outcome.too_many or len(inputs), len(inputs))
            self._fail_or_cut(inputs, start, error, may_cut=may_halve, may_halve=False)
        except Exception as error:
            self._fail_or_cut(inputs, start, error, may_cut=True, may_halve=may_halve)
        else:
            self._keep(outputs, start)

    def _fail_or_cut(self, inputs: Array, start: int, error: Exception, may_cut: bool, may_halve: bool) -> None:
        if len(inputs) == 1 or not may_cut or self._is_over():
            self.outcome.faults |= dict.fromkeys(range(start, start + len(inputs)), error)
            return
        middle = len(inputs) // 2
        for part, begin in ((inputs[:middle], start), (inputs[middle:], start + middle)):
            self._attempt(part, begin, self._run, may_halve)

    def _keep(self, outputs: Array, start: int) -> None:
        if len(outputs) == self._items:
            self.outcome.outputs = outputs
        else:
            if self.outcome.outputs is None:
                self.outcome.outputs = np.zeros((self._items, *outputs.shape[1:]), outputs.dtype)
            self.outcome.outputs[start : start + len(outputs)] = outputs
        answerable = self._answerable(outputs)  # (items, *output shape)
        if answerable.all():
            return
        for position in np.flatnonzero(~answerable.reshape(len(outputs), -1).all(axis=1)):
            self.outcome.faults[start + int(position)] = NotFiniteOutput()
