"""Keeps two batches in flight on one GPU: while one is computed, the next is copied there.

Its author had no GPU and has not run it: trust it where `pytest tests/gpu` has run and skipped nothing.

The copy stream copies inputs to the device; the compute stream computes and copies answers back. Both ends of a copy
on the host are pinned, or it would not overlap. Each of two slots keeps its buffers for a later batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from bedplate.engine.work import Array

logger = logging.getLogger(__name__)
Forward = Callable[[torch.Tensor], torch.Tensor]

_SLOTS = 2
# A recorded graph has fixed buffers and costs memory: below this share of the time of a plain call it is worth them.
WORTH_REPLAYING = 0.9
_TIMED_CALLS = 5


def to_numpy(tensor: torch.Tensor) -> Array:
    """Return the same memory as a numpy array; bfloat16 as the uint16 that numpy holds it in."""
    held: Array = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return held


class _Slot:
    """The buffers of one batch in flight; they grow to the largest batch seen. Bytes, so that any dtype fits."""

    def __init__(self, device: torch.device, takes: torch.dtype):
        self._device = device
        self._takes = takes
        self.staged = torch.empty(0, dtype=torch.uint8)  # pinned
        self.inputs = torch.empty(0, dtype=torch.uint8, device=device)
        self.answer = torch.empty(0, dtype=torch.uint8)  # pinned
        self.copied = torch.cuda.Event()
        self.done = torch.cuda.Event()
        self.busy = False

    def take(self, items: Array, copy: torch.cuda.Stream) -> torch.Tensor:
        """Start copying; the result is (items, *input shape) on the device once `copied` has happened."""
        with torch.cuda.stream(copy):
            if self.inputs.numel() < items.nbytes:
                self.staged = torch.empty(items.nbytes, dtype=torch.uint8, pin_memory=True)
                # Allocated in the stream that writes it, or the allocator might hand out what another still reads.
                self.inputs = torch.empty(items.nbytes, dtype=torch.uint8, device=self._device)
            staged, inputs = self.staged[: items.nbytes], self.inputs[: items.nbytes]
            staged.numpy()[:] = items.reshape(-1).view(np.uint8)
            inputs.copy_(staged, non_blocking=True)
            self.copied.record(copy)
        return inputs.view(self._takes).view(items.shape)

    def give(self, result: torch.Tensor, compute: torch.cuda.Stream) -> torch.Tensor:
        """Start copying back, in the stream that computes; the result is valid once `done` has happened."""
        if self.answer.numel() < result.nbytes:
            self.answer = torch.empty(result.nbytes, dtype=torch.uint8, pin_memory=True)
        answer = self.answer[: result.nbytes].view(result.dtype).view(result.shape)
        answer.copy_(result, non_blocking=True)
        self.done.record(compute)
        return answer


class _Graph:
    """A forward pass of one shape, recorded once: replaying it launches all its kernels at once."""

    def __init__(self, forward: Forward, example: torch.Tensor, compute: torch.cuda.Stream):
        self._inputs = example  # (items, *input shape)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on loading models meanwhile.
        with torch.cuda.graph(self._graph, stream=compute, capture_error_mode="thread_local"):
            self._outputs = forward(self._inputs)  # (items, *output shape)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """The answer, in a buffer that the next call overwrites; all in the current stream, so in order."""
        self._inputs.copy_(batch)
        self._graph.replay()
        return self._outputs


class Pipeline:
    """One model on one GPU. All calls come from one thread.

    Args:
        forward: (items, *input shape) to (items, *output shape), on the device, in the current stream.
        takes: the dtype of its input.
        worth_replaying: a graph is kept if it takes less than this share of a plain call's time.
    """

    def __init__(
        self,
        forward: Forward,
        device: torch.device,
        takes: torch.dtype = torch.float32,
        worth_replaying: float = WORTH_REPLAYING,
    ):
        self._forward = forward
        self._device = device
        self._takes = takes
        self._worth_replaying = worth_replaying
        self._copy = torch.cuda.Stream(device)
        self._compute = torch.cuda.Stream(device)
        self._slots = [_Slot(device, takes) for _ in range(_SLOTS)]
        self.graphs: dict[tuple[int, ...], _Graph] = {}  # by the shape of the batch
        # The weights came in the stream of whoever loads, which ours do not wait for.
        torch.cuda.current_stream(device).synchronize()

    def begin(self, items: Array) -> Callable[[], Array]:
        """Start a batch; calling the result waits for its answer. Two may be in flight."""
        slot = next((slot for slot in self._slots if not slot.busy), None)
        if slot is None:
            raise RuntimeError(f"{_SLOTS} batches are under way; finish one before another begins")
        batch = slot.take(items, self._copy)
        with torch.cuda.stream(self._compute):
            self._compute.wait_event(slot.copied)
            result = self.graphs.get(items.shape, self._forward)(batch)
            answer = slot.give(result, self._compute)
        slot.busy = True

        def finish() -> Array:
            slot.busy = False
            slot.done.synchronize()
            copied = to_numpy(answer).copy()  # the slot's buffer is the next batch's
            return copied

        return finish

    def tune(self, shape: tuple[int, ...]) -> None:
        """Replay batches of this shape from now on if that is faster by a tenth. No batch may be in flight."""
        with torch.cuda.stream(self._compute):
            example = torch.zeros(shape, dtype=self._takes, device=self._device)
            try:
                graph = _Graph(self._forward, example, self._compute)
                plain_ms, replayed_ms = self._time_ms(self._forward, example), self._time_ms(graph, example)
            except RuntimeError as error:
                logger.warning("not recorded as a graph: %s", error, extra={"shape": shape})
                torch.cuda.synchronize(self._device)  # fails where the device is lost
                return
        if replayed_ms < self._worth_replaying * plain_ms:
            self.graphs[shape] = graph
        logger.info(
            "graph measured",
            extra={"shape": shape, "plain_ms": plain_ms, "replayed_ms": replayed_ms, "used": shape in self.graphs},
        )

    def _time_ms(self, call: Forward, example: torch.Tensor) -> float:
        """The fastest of a few calls, from launch to end."""
        times_ms: list[float] = []
        for _ in range(_TIMED_CALLS):
            begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begun.record(self._compute)
            call(example)
            ended.record(self._compute)
            ended.synchronize()
            times_ms.append(begun.elapsed_time(ended))
        return min(times_ms)
