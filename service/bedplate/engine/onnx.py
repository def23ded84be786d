"""A network that is ONNX, computed by onnxruntime: numbers in, numbers out, as any other network of the engine."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from bedplate.bundle.onnx import OnnxGraph
from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.engine.work import Array

logger = logging.getLogger(__name__)
T = TypeVar("T")
# Of what all .onnx files of a process compute at once, weights not counted; as programs have it.
_MAX_LIVE_BYTES = 16 << 30
# Of the machine's memory that much may be it, so that a file that wants more is refused and nobody is killed.
_SHARE = 0.75
# What onnxruntime may compute once and for all while it loads a file, of each node and of all together: else a file of
# 200 bytes takes all memory.
_MAX_FOLDED_BYTES = 64 << 20
_MAX_ALL_FOLDED_BYTES = 1 << 30
_ERRORS_ONLY = 3
_FATAL_ONLY = 4
_SAME_AS_REQUESTED = 1  # how the arena grows
_LACK_OF_MEMORY = ("bfc_arena", "bad_alloc", "Failed to allocate memory")
_CUDA_FAILED = ("CUDA failure", "CUDNN failure", "CUBLAS failure")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxSession(nn.Module):
    """A module without parameters of torch's: onnxruntime has the weights, and `Module.to` changes nothing.

    Args:
        content: the bytes that `graph` was read from.
        device: where it computes; where onnxruntime has no CUDA, it is the processor.

    Raises:
        BundleError: onnxruntime does not take it; with its words.
        MemoryError: it does not fit.
    """

    def __init__(self, content: bytes, graph: OnnxGraph, device: torch.device, source: str):
        super().__init__()
        self.host_bytes = graph.weights_bytes
        self._names = [graph.output], graph.input
        onnxruntime = _onnxruntime()
        try:
            self._session = _translated(
                lambda: onnxruntime.InferenceSession(content, _options(graph), providers=_providers(device))
            )
        except RuntimeError as error:
            said = words_of(error, 400)
            raise BundleError(f"{source}: onnxruntime {onnxruntime.__version__} cannot load it ({said})") from None

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Do what `compute` does, for a tensor in the host's memory."""
        return torch.from_numpy(self.compute(batch.contiguous().numpy()))

    def compute(self, items: Array) -> Array:
        """Compute (items, *output shape) of (items, *input shape), both in the file's dtypes, and copy nothing.

        Raises:
            MemoryError, RuntimeError: with onnxruntime's words.
        """
        outputs, name = self._names
        [result] = _translated(lambda: self._session.run(outputs, {name: items}))
        return np.asarray(result)


def _options(graph: OnnxGraph) -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    folded_bytes = min(_MAX_FOLDED_BYTES, _MAX_ALL_FOLDED_BYTES // max(1, graph.constants))
    # Said, and not found out: else onnxruntime pins each thread to a core, which a sandbox and our own pinning forbid.
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    # A plan of memory for each shape that ever came would stay for ever.
    options.enable_mem_pattern = False
    # What a request does wrong is told by the exception; the engine logs it once.
    options.log_severity_level = _FATAL_ONLY
    for key, value in {
        # Never its own format, which nobody checked.
        "session.load_model_format": "ONNX",
        # Threads that wait for work sleep: the core is another engine's.
        "session.intra_op.allow_spinning": "0",
        "session.inter_op.allow_spinning": "0",
        # The arena of the process, for all but weights: those go when the model does.
        "session.use_env_allocators": "1",
        "session.use_device_allocator_for_initializers": "1",
        "optimization.constant_folding_max_output_size_in_bytes": str(folded_bytes),
    }.items():
        options.add_session_config_entry(key, value)
    return options


def _providers(device: torch.device) -> list[Any]:
    if device.type != "cuda":
        return [_CPU]
    if _CUDA not in _onnxruntime().get_available_providers():
        logger.warning("onnxruntime is the build for processors: this model computes on the processor")
        return [_CPU]
    index = device.index or 0
    return [(_CUDA, {"device_id": index, "arena_extend_strategy": "kSameAsRequested"}), _CPU]


@functools.cache
def _onnxruntime() -> Any:
    """Load it for the first model that is ONNX: 18 MB. It gets one arena for the process, which ends somewhere."""
    from bedplate.engine.runtime import onnxruntime  # noqa: PLC0415

    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    arena = onnxruntime.OrtArenaCfg({"max_mem": _arena_bytes(), "arena_extend_strategy": _SAME_AS_REQUESTED})
    onnxruntime.create_and_register_allocator(place, arena)
    return onnxruntime


def _arena_bytes() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(_MAX_LIVE_BYTES, int(_SHARE * min(machine, _group_bytes() or machine)))


def _group_bytes(root: Path = Path("/sys/fs/cgroup"), of_process: Path = Path("/proc/self/cgroup")) -> int | None:
    """MemoryMax of the unit; None where there is none to be seen."""
    try:
        group = of_process.read_text().strip().rpartition(":")[2].lstrip("/")
        return int((root / group / "memory.max").read_text())
    except (OSError, ValueError):
        return None


def _translated(call: Callable[[], T]) -> T:
    """What onnxruntime raises has no base of its own; here it becomes what the engine tells apart."""
    try:
        return call()
    except Exception as error:
        said = str(error)
        if any(sign in said for sign in _LACK_OF_MEMORY):
            raise MemoryError(said) from None
        if any(sign in said for sign in _CUDA_FAILED):
            raise RuntimeError(f"CUDA error: {said}") from None
        raise RuntimeError(said) from None
