"""Bundles that bring programs of their own: a model that no chain of layers is, and a codec."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bedplate.bundle.bundle import read_bundle, write_manifest

from tests.service.engine_tools import WEIGHTS, write_bundle
from tests.service.lamp import custom, description

# What `lamp_logits` computes, by a way that is none through layers one after another.
LAMP = """
import torch
from torch import nn


class Lamp(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, batch):
        flat = batch.flatten(1)
        return self.last(flat) + 0 * flat.sum(1, keepdim=True)


def load(weights):
    module = Lamp()
    module.load_state_dict({name.replace("1.", "last."): tensor for name, tensor in weights.items()})
    return module


def predict(module, batch):
    return module(batch)
"""


def write_coded(directory: Path, program: str | bytes = LAMP, **changes: Any) -> Path:
    """The lamp, by a program in place of a network."""
    document = {**description(code="model.py"), **changes}
    del document["network"]
    return _written(directory, WEIGHTS, document, {"model.py": program})


def write_program(directory: Path, document: dict[str, Any], program: str) -> Path:
    """A bundle without weights, of what a program computes."""
    del document["network"]
    return _written(directory, {}, document, {"model.py": program})


def write_custom(directory: Path, **changes: Any) -> Path:
    """A bundle with a codec: `lamp.custom`."""
    return _written(directory, {}, custom(**changes), {})


def _written(
    directory: Path, weights: Mapping[str, Any], document: dict[str, Any], programs: Mapping[str, str | bytes]
) -> Path:
    write_bundle(directory, dict(weights), document)
    for name, program in programs.items():
        (directory / name).write_bytes(program if isinstance(program, bytes) else program.encode())
    write_manifest(directory)
    return directory


def sums_of(*directories: Path) -> list[str]:
    """Of their programs, for the settings of those who may run them."""
    return [total for directory in directories for total in read_bundle(directory).code_sums]


def sum_of(program: str) -> str:
    return hashlib.sha256(program.encode()).hexdigest()
