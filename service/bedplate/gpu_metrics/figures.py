"""The metrics of one GPU. A metric that a GPU does not have is left out.

Each value is read by one function of the binding `pynvml` (package nvidia-ml-py) and the GPU's handle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

# Values of the label, and the value.
Samples = Iterable[tuple[tuple[str, ...], float]]


@dataclass(frozen=True)
class Figure:
    name: str
    words: str
    read: Callable[[Any, Any], Samples]
    labels: tuple[str, ...] = ()
    counts: bool = False


def _one(value: float) -> Samples:
    return [((), value)]


def _utilization(nvml: Any, gpu: Any) -> Samples:
    return _one(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)


def _memory_used(nvml: Any, gpu: Any) -> Samples:
    return _one(nvml.nvmlDeviceGetMemoryInfo(gpu).used)


def _memory(nvml: Any, gpu: Any) -> Samples:
    return _one(nvml.nvmlDeviceGetMemoryInfo(gpu).total)


def _temperature(nvml: Any, gpu: Any) -> Samples:
    return _one(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))


def _power(nvml: Any, gpu: Any) -> Samples:
    return _one(nvml.nvmlDeviceGetPowerUsage(gpu) / 1000)


def _power_limit(nvml: Any, gpu: Any) -> Samples:
    return _one(nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000)


def _clocks(nvml: Any, gpu: Any) -> Samples:
    clocks = {"sm": nvml.NVML_CLOCK_SM, "memory": nvml.NVML_CLOCK_MEM}
    return [((name,), nvml.nvmlDeviceGetClockInfo(gpu, number) * 1e6) for name, number in clocks.items()]


def _throttled(nvml: Any, gpu: Any) -> Samples:
    now = nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
    reasons = {
        "power-cap": nvml.nvmlClocksEventReasonSwPowerCap,
        "thermal": nvml.nvmlClocksEventReasonSwThermalSlowdown | nvml.nvmlClocksEventReasonHwThermalSlowdown,
        "power-brake": nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    }
    return [((name,), float(bool(now & bits))) for name, bits in reasons.items()]


def _ecc_errors(nvml: Any, gpu: Any) -> Samples:
    kinds = {
        "corrected": nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED,
        "uncorrected": nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
    }
    since_loaded = nvml.NVML_VOLATILE_ECC
    return [((name,), nvml.nvmlDeviceGetTotalEccErrors(gpu, number, since_loaded)) for name, number in kinds.items()]


def _pcie_replays(nvml: Any, gpu: Any) -> Samples:
    return _one(nvml.nvmlDeviceGetPcieReplayCounter(gpu))


def _retired_pages(nvml: Any, gpu: Any) -> Samples:
    causes = {
        "corrected": nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
        "uncorrected": nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
    }
    return [((name,), len(nvml.nvmlDeviceGetRetiredPages(gpu, number))) for name, number in causes.items()]


def _remapped_rows(nvml: Any, gpu: Any) -> Samples:
    corrected, uncorrected, _, _ = nvml.nvmlDeviceGetRemappedRows(gpu)
    return [(("corrected",), corrected), (("uncorrected",), uncorrected)]


def _remapping(nvml: Any, gpu: Any) -> Samples:
    _, _, pending, failed = nvml.nvmlDeviceGetRemappedRows(gpu)
    return [(("pending",), pending), (("failed",), failed)]


def _processes(nvml: Any, gpu: Any) -> Samples:
    return _one(len(nvml.nvmlDeviceGetComputeRunningProcesses(gpu)))


FIGURES = (
    Figure("utilization_ratio", "Share of the last moments in which something computed", _utilization),
    Figure("memory_used_bytes", "Memory in use", _memory_used),
    Figure("memory_bytes", "Memory that there is", _memory),
    Figure("temperature_celsius", "Temperature of the chip", _temperature),
    Figure("power_watts", "Power drawn", _power),
    Figure("power_limit_watts", "Power that it may draw", _power_limit),
    Figure("clock_hertz", "Clocks as they are now", _clocks, ("clock",)),
    Figure("throttled", "1 while the clocks are held down for this reason", _throttled, ("reason",)),
    Figure("ecc_errors", "Errors of memory since the driver was loaded", _ecc_errors, ("kind",), counts=True),
    Figure("pcie_replays", "Packets of the bus that were sent again", _pcie_replays, counts=True),
    Figure("retired_pages", "Pages of memory taken out of use", _retired_pages, ("cause",)),
    Figure("remapped_rows", "Rows of memory replaced by spare ones", _remapped_rows, ("cause",)),
    Figure("remapping", "1 for a replacement that waits for a reset, or failed", _remapping, ("state",)),
    Figure("processes", "Programs that compute on it", _processes),
)
