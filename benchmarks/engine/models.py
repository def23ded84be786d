"""Models that the measuring program hands to the engine in place of a bundle's own network."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import torch
from bedplate.bundle import Bundle
from bedplate.engine.model import Model
from torch import nn

from benchmarks.engine.bundles import POISON, lamp_logits

CLASSES = 1000
TOKENS = 128
VOCABULARY = 1000


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


class Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
        self.around: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.around = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(self.first(pictures)) + self.around(pictures))


class ResNet18(nn.Sequential):
    """(items, 3, 224, 224) → (items, 1000); 11.7 million parameters."""

    def __init__(self) -> None:
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        blocks, before = [], 64
        for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            blocks += [Block(before, channels, stride), Block(channels, channels, 1)]
            before = channels
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


class Transformer(nn.Module):
    """(items, 1, 1, 128) token numbers as float32 → (items, 1000); 4 layers, width 256, 8 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 256)
        self.position = nn.Parameter(torch.randn(TOKENS, 256) * 0.02)
        layer = nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(256, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        embedded = self.embedding(tokens.flatten(1).long()) + self.position  # (items, tokens, 256)
        hidden: torch.Tensor = self.head(self.encoder(embedded).mean(dim=1))
        return hidden


NETWORKS: dict[str, tuple[type[nn.Module], list[int]]] = {
    "cnn": (ResNet18, [3, 224, 224]),
    "transformer": (Transformer, [1, 1, TOKENS]),
}


@cache
def network(kind: str) -> nn.Module:
    """The same weights in every process."""
    torch.manual_seed(0)
    return NETWORKS[kind][0]().requires_grad_(False).eval()


def load_network(bundle: Bundle, directory: Path, device: torch.device, precision: str = "float32") -> Model:
    """The network that the bundle's name begins with; several bundles of different batch limits share one."""
    return Model(bundle, network(bundle.name.partition("-")[0]).to(device), device)
