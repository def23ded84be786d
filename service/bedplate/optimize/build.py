"""Builds native code of a network: exported with a dynamic batch dimension, compiled ahead of time by inductor."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch._inductor
from torch import nn

from bedplate.bundle.bundle import Bundle
from bedplate.engine.model import dtype_of
from bedplate.engine.variant import ModelVariant

_CALIBRATED = 64  # items of the validation set by which int8 learns how large numbers become


class CannotBuild(Exception):
    """The network cannot be compiled; the message says why."""


class AsDeclared(nn.Module):
    """A network whose inputs and outputs have the dtypes of bundle.yaml, whatever it computes in."""

    def __init__(self, network: nn.Module, bundle: Bundle, precision: torch.dtype):
        super().__init__()
        self.network = network.to(precision)
        self._precision = precision
        self._gives = getattr(torch, bundle.output.dtype)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.network(batch.to(self._precision) if batch.is_floating_point() else batch)
        return result.to(self._gives) if result.is_floating_point() and self._gives.is_floating_point else result


def build(network: nn.Module, bundle: Bundle, precision: str, package: Path, known: torch.Tensor | None) -> None:
    """Write the native code to `package`, for this processor and as many threads as torch has.

    Args:
        known: inputs of the validation set, if there is one.

    Raises:
        CannotBuild: with the reason.
    """
    # Beside its fast path for attention, which cannot be exported.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            module = _int8(network, bundle, known) if precision == "int8" else _float(network, bundle, precision)
            exported = export(module, bundle)
            # Weights are known and never change: they are laid out for this processor once, here. A batch of one passes
            # the check of shapes that native code makes (see Compiled) only without a lower bound.
            how = {"freezing": True, "compile_threads": 1, "aot_inductor.check_lowerbound": False}
            torch._inductor.aoti_compile_and_package(exported, package_path=str(package), inductor_configs=how)
    except CannotBuild:
        raise
    # Whatever in torch's exporter and compiler, or in the C++ compiler behind them, does not get on with a network.
    except Exception as error:
        raise CannotBuild(f"{type(error).__name__}: {error}") from None


def export(module: nn.Module, bundle: Bundle) -> Any:
    """Return the network as a graph that takes every batch that the bundle allows."""
    example, free = export_arguments(bundle)
    return torch.export.export(module, (example,), dynamic_shapes=(free,))


def export_arguments(bundle: Bundle) -> tuple[torch.Tensor, dict[int, Any]]:
    """Return an input, and its dynamic dimensions: the batch's, and those that vary by the bundle."""
    spec = bundle.input
    free = {0: torch.export.Dim("items", min=1, max=bundle.max_items)} if bundle.max_items > 1 else {}
    for at, (low, high) in enumerate(zip(spec.smallest, spec.largest, strict=True), 1):
        if low != high:
            free[at] = torch.export.Dim(f"size{at}", min=low, max=high)
    return torch.zeros(bundle.max_items, *spec.largest, dtype=getattr(torch, spec.dtype)), free


def _float(network: nn.Module, bundle: Bundle, precision: str) -> nn.Module:
    return AsDeclared(network, bundle, dtype_of(ModelVariant(precision)))


def _int8(network: nn.Module, bundle: Bundle, known: torch.Tensor | None) -> nn.Module:
    """Weights and what flows between layers as bytes, where torch has kernels for it."""
    if known is None:
        raise CannotBuild("no validation set of what the network takes, to calibrate int8 by")
    try:
        # Only here: it takes seconds to import, and an engine has no use for it.
        from torchao.quantization.pt2e import quantize_pt2e  # noqa: PLC0415
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86  # noqa: PLC0415
    except ImportError as error:
        raise CannotBuild(f"torchao is not installed ({error})") from None
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    module = export(AsDeclared(network, bundle, torch.float32), bundle).module()
    prepared = quantize_pt2e.prepare_pt2e(module, quantizer)
    for start in range(0, min(len(known), _CALIBRATED), bundle.max_items):
        prepared(known[start : start + bundle.max_items])
    quantized: nn.Module = quantize_pt2e.convert_pt2e(prepared)
    return quantized
