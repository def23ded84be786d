"""The first batches of a model: torch does its one-time work, and the engine learns how long batches take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bedplate.engine.batcher import Batcher
from bedplate.engine.model import Model
from bedplate.engine.work import Array
from bedplate.wire import now_ns

# A batch that takes longer is not run again: its first run was hardly slower, and somebody waits for the engine.
_WORTH_REPEATING_NS = 200_000_000


def warm_up_steps(model: Model, batcher: Batcher) -> list[Callable[[], None]]:
    """Return one batch each, for the device thread, which may do other work between them.

    Each step raises what `Model.warm_up_with` raises.
    """
    return [partial(_warm_up, model, batcher, inputs) for inputs in model.warm_up_inputs()]


def _warm_up(model: Model, batcher: Batcher, inputs: Array) -> None:
    started_ns = now_ns()
    model.warm_up_with(inputs)
    took_ns = now_ns() - started_ns
    if took_ns < _WORTH_REPEATING_NS:
        started_ns = now_ns()
        model.run(inputs)
        took_ns = now_ns() - started_ns
    batcher.learn(model, len(inputs) * model.bundle.input.cost_of(inputs.shape[1:]), took_ns)
