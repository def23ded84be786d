"""Models that the measuring program hands to the engine in place of a bundle's own network."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import safetensors.torch
import torch
from bedplate.bundle.bundle import Bundle
from bedplate.engine.model import Model
from bedplate.engine.variant import ModelVariant
from torch import nn

from benchmarks.engine.bundles import POISON, lamp_logits
from benchmarks.networks import NETWORKS


class Sleeping(nn.Module):
    """A lamp of one version whose batch of n costs base_s + item_s * n, asleep: the processor does not matter."""

    def __init__(self, version: int, base_s: float, item_s: float):
        super().__init__()
        self._version = version
        self._base_s = base_s
        self._item_s = item_s

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        time.sleep(self._base_s + self._item_s * len(items))
        if (items == POISON).any():
            raise ValueError("a poisoned item")
        return torch.from_numpy(lamp_logits(items.numpy(), self._version))


@cache
def network(kind: str) -> nn.Module:
    """The same weights in every process."""
    torch.manual_seed(0)
    return NETWORKS[kind][0]().requires_grad_(False).eval()


def load_network(bundle: Bundle, directory: Path, device: torch.device, form: ModelVariant) -> Model:
    """The network that the bundle's name begins with; several bundles of different batch limits share one."""
    return Model(bundle, network(bundle.name.partition("-")[0]).to(device), device)


def load_weighted(bundle: Bundle, directory: Path, device: torch.device, form: ModelVariant) -> Model:
    """The network that the bundle is named after, with the bundle's own weights."""
    return Model.of(bundle, lambda: weighted(bundle, directory), device, form)


def weighted(bundle: Bundle, directory: Path) -> nn.Module:
    module = NETWORKS[bundle.name][0]().requires_grad_(False).eval()
    module.load_state_dict(safetensors.torch.load_file(directory / bundle.weights))
    return module
