"""The networks that are measured, and nothing of Bedplate: peers import them in environments of their own."""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 1000
TOKENS = 128
VOCABULARY = 1000


class Tiny(nn.Sequential):
    """(items, 64) → (items, 10): so small that everything else is what a request costs."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


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
    """(items, 128) token numbers → (items, 1000); 4 layers, width 256, 8 heads."""

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
    "tiny": (Tiny, [64]),
    "cnn": (ResNet18, [3, 224, 224]),
    "transformer": (Transformer, [1, 1, TOKENS]),
}
