"""Reads one sample of each GPU from NVIDIA's library. Any of its calls may fail, and may hang."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bedplate.gpu_metrics.figures import FIGURES, Samples

_log = logging.getLogger(__name__)
# Of events that wait in the driver, how many are taken at most with one sample.
_MAX_EVENTS = 100


@dataclass
class Sample:
    """One GPU at one moment."""

    name: str
    driver: str
    # By the name of the figure; one that the GPU does not have is missing.
    figures: dict[str, Samples] = field(default_factory=dict)


@dataclass
class Xids:
    """Errors that the driver reported for one GPU since this program began, and the code of the last one."""

    count: int = 0
    last: int = 0


class Nvml:
    """Samples the GPUs with these UUIDs; None stands for one that does not answer.

    It logs each change once: a missing library, a lost GPU, and their return.
    """

    def __init__(self, uuids: Sequence[str]):
        self.uuids = uuids
        self.xids = {uuid: Xids() for uuid in uuids}
        self._nvml: Any = None
        self._events: Any = None
        self._said: dict[str, str] = {}

    def sample(self) -> list[Sample | None]:
        if self._nvml is None and not self._start():
            return [None] * len(self.uuids)
        samples = [self._sample_one(uuid) for uuid in self.uuids]
        self._take_events()
        if None in samples:
            # A handle of a GPU that was lost stays lost, whatever became of it.
            self._stop()
        return samples

    def _start(self) -> bool:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            self._say("library", "no figures of GPUs: the Python package nvidia-ml-py is not installed")
            return False
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self._say("library", f"no figures of GPUs: {error} (libnvidia-ml.so.1)")
            return False
        self._say("library", "")
        self._nvml = nvml
        self._events = self._register()
        return True

    def _stop(self) -> None:
        nvml, self._nvml = self._nvml, None
        try:
            nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            self._say("shutdown", f"{error}")

    def _sample_one(self, uuid: str) -> Sample | None:
        nvml = self._nvml
        absent = (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound, nvml.NVMLError_NoPermission)
        try:
            gpu = nvml.nvmlDeviceGetHandleByUUID(uuid)
            sample = Sample(nvml.nvmlDeviceGetName(gpu), nvml.nvmlSystemGetDriverVersion())
            for figure in FIGURES:
                try:
                    sample.figures[figure.name] = figure.read(nvml, gpu)
                except absent:
                    continue
        except nvml.NVMLError as error:
            # Half a sample of a GPU that is going would be told as if all were well.
            self._say(uuid, f"GPU {uuid} does not answer: {error}")
            return None
        self._say(uuid, "")
        return sample

    def _register(self) -> Any:
        """Ask for the driver's error reports (XID), GPU by GPU; None where it has none."""
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
        except nvml.NVMLError:
            return None
        for uuid in self.uuids:
            try:
                gpu = nvml.nvmlDeviceGetHandleByUUID(uuid)
                nvml.nvmlDeviceRegisterEvents(gpu, nvml.nvmlEventTypeXidCriticalError, events)
            except nvml.NVMLError as error:
                self._say(f"events of {uuid}", f"no error reports of GPU {uuid}: {error}")
        return events

    def _take_events(self) -> None:
        nvml = self._nvml
        for _ in range(_MAX_EVENTS if self._events else 0):
            try:
                event = nvml.nvmlEventSetWait(self._events, 0)
                uuid = nvml.nvmlDeviceGetUUID(event.device)
            except nvml.NVMLError:
                # Most often that nothing waits.
                return
            if uuid in self.xids:
                self.xids[uuid].count += 1
                self.xids[uuid].last = event.eventData
                _log.error("GPU %s reports XID %d", uuid, event.eventData)

    def _say(self, about: str, what: str) -> None:
        """A line when it is another one than the last; an empty one is that all is well again."""
        before = self._said.get(about, "")
        if what != before:
            self._said[about] = what
            _log.warning("%s", what) if what else _log.info("over: %s", before)
