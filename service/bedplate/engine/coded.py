"""A model that is code: its author's `load` makes a module of the weights, and `predict` calls it (docs/adr/0021)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bedplate.bundle import user_code
from bedplate.bundle.manifest import Manifest
from bedplate.bundle.strict_yaml import BundleError
from bedplate.bundle.user_code import CodeFault, Function

_TRIAL_S = 30


class Coded(nn.Module):
    """The author's module, called by the author's `predict`."""

    def __init__(self, module: nn.Module, predict: Function):
        super().__init__()
        self.module = module
        self._predict = predict

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        # torch says by RuntimeError what is wrong with the device.
        result = user_code.called(self._predict, self.module, batch, passing=(MemoryError, RuntimeError))
        if not isinstance(result, torch.Tensor):
            raise CodeFault(f"predict gives {_shown(result)}, wanted a tensor")
        return result


def load(manifest: Manifest, name: str, weights: dict[str, torch.Tensor]) -> nn.Module:
    """Load the model of the program `name` on the CPU.

    Raises:
        BundleError: the program does not run, or makes no model.
    """
    path = manifest.directory / name
    source = manifest.read(name, user_code.MAX_BYTES)
    try:
        load_, predict = user_code.functions_of(source, manifest.sums[name], user_code.MODEL, name)
        module = user_code.called(load_, weights)
    except CodeFault as error:
        raise BundleError(f"{path}: fails ({error}); run it where its author works") from None
    if not isinstance(module, nn.Module):
        raise BundleError(f"{path}: load gives {_shown(module)}, wanted a torch.nn.Module")
    return Coded(module, predict)


def require_codec(source: bytes, path: Path) -> None:
    """Test in a separate process whether decoders will be able to run the codec, because no codec may meet a model.

    Raises:
        BundleError: it does not run.
    """
    command = [sys.executable, "-m", "bedplate.bundle.user_code", hashlib.sha256(source).hexdigest()]
    # This program, and no other of its name.
    environment = {**os.environ, "PYTHONPATH": str(Path(user_code.__file__).parents[2])}
    try:
        done = subprocess.run(
            command, input=source, capture_output=True, timeout=_TRIAL_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"{path}: does not end within {_TRIAL_S} s; what it does at import is too much") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2] or f"status {done.returncode}"
        raise BundleError(f"{path}: fails ({said}); run it where its author works")


def _shown(value: Any) -> str:
    return type(value).__name__
