"""Reads the tensors of a bundle's safetensors file, each directly to its final place, and hashes the file on the way.

The library of that name maps the file, so its content could change after the sum was compared. This reads once.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from bedplate.bundle.manifest import Manifest, SummedFile
from bedplate.bundle.strict_yaml import BundleError

_MAX_HEADER_BYTES = 16 << 20
_MAX_DIMENSIONS = 16
_DTYPES = {
    "BOOL": torch.bool,
    **{f"U{bits}": getattr(torch, f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"I{bits}": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": getattr(torch, f"float{bits}") for bits in (16, 32, 64)},
    "BF16": torch.bfloat16,
}


def read_tensors(manifest: Manifest, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a file of the bundle, on the CPU.

    Raises:
        BundleError: it is not the file that SHA256SUMS lists, or not safetensors.
    """
    path = manifest.directory / name
    with manifest.open(name) as file:
        try:
            return _read(file)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            wrong = error
    # After the sum: a file that was damaged is told as that.
    raise _unreadable(path, wrong)


def _unreadable(path: Path, error: Exception) -> BundleError:
    return BundleError(f"{path}: is not safetensors ({error}); write it with safetensors' save_file")


def _read(file: SummedFile) -> dict[str, torch.Tensor]:
    header_bytes = int.from_bytes(file.read(8), "little")
    if not 2 <= header_bytes <= min(_MAX_HEADER_BYTES, file.size_bytes):
        raise ValueError(f"a header of {header_bytes} bytes")
    header: dict[str, Any] = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    tensors: dict[str, torch.Tensor] = {}
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: (item[1]["data_offsets"], item[0])):
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        _check(name, shape, begin, end, at, dtype.itemsize)
        if 8 + header_bytes + end > file.size_bytes:
            raise ValueError(f"'{name}' ends at {end}, beyond the file")
        tensors[name] = torch.empty(shape, dtype=dtype)
        if file.readinto(_bytes_of(tensors[name])) != end - begin:
            raise ValueError(f"'{name}' is cut off")
        at = end
    if 8 + header_bytes + at != file.size_bytes:
        raise ValueError(f"{file.size_bytes - 8 - header_bytes - at} bytes behind the last tensor")
    return tensors


def _check(name: str, shape: object, begin: object, end: object, at: int, item_bytes: int) -> None:
    """Tensors follow one another without a gap, each as long as its shape says."""
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(_is_size(size) for size in shape):
        raise ValueError(f"'{name}' has no shape")
    if type(begin) is not int or type(end) is not int or begin != at or end - begin != math.prod(shape) * item_bytes:
        raise ValueError(f"'{name}' of shape {shape} does not lie from {begin} to {end}")


def _is_size(size: object) -> bool:
    return type(size) is int and 0 <= size < 1 << 48


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    # Viewed as bytes a tensor needs a dimension, and numpy no bfloat16.
    return tensor.reshape(-1).view(torch.uint8).numpy().data
