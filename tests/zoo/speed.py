"""`python -m tests.zoo.speed`: programs beside the same model in its own library, eager, one thread.

Models of usual sizes with random weights, a single item and a batch. Times are of the processor, the best of several
runs in turn, so that what else the machine does counts little and meets both alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from bedplate.bundle.program import read_program
from bedplate.engine import allocator, program
from bedplate.engine.model import formed
from bedplate.engine.variant import ModelVariant
from bedplate.importers import pictures, texts
from bedplate.importers.export import export
from bedplate.importers.exported import as_program
from torch import nn

RUNS = 12
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 6}
TOKENS = 32


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]  # as it is imported
    inputs: Callable[[int], torch.Tensor]
    batch: int


def cases() -> list[Case]:
    import transformers as hf  # noqa: PLC0415

    def pixels(items: int) -> torch.Tensor:
        return torch.randn(items, 3, 224, 224)

    def ids(items: int) -> torch.Tensor:
        return torch.randint(5, 900, (items, TOKENS))

    def picture(kind: str, **config: Any) -> Callable[[], nn.Module]:
        made = getattr(hf, f"{kind}ForImageClassification")
        return lambda: pictures.Logits(made(made.config_class(**config)))

    def text(kind: str, **config: Any) -> Callable[[], nn.Module]:
        made = getattr(hf, f"{kind}ForSequenceClassification")
        return lambda: texts.Logits(made(made.config_class(**config)), 1)

    return [
        Case("ResNet-50", picture("ResNet"), pixels, 8),
        Case("ViT, 6 layers of 384", picture("ViT", **SMALL), pixels, 8),
        Case("DeiT, 6 layers of 384", picture("DeiT", **SMALL), pixels, 8),
        Case("RoBERTa, 4 layers of 768, 32 tokens", text("Roberta", num_hidden_layers=4), ids, 16),
    ]


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    allocator.keep_memory()
    print("| model | batch of 1 | ms | batch of | | ms |\n|---|---|---|---|---|---|", flush=True)
    for case in cases():
        own = case.make().eval()
        ours = _as_served(own, case)
        (one, one_ms), (full, full_ms) = (_ratio(own, ours, case.inputs(items)) for items in (1, case.batch))
        told = f"{one:.2f}x | {one_ms:.1f} | {case.batch} | {full:.2f}x | {full_ms:.0f}"
        print(f"| {case.name} | {told} |", flush=True)


def _as_served(own: nn.Module, case: Case) -> nn.Module:
    graph = export(own, case.inputs(2), 32, {}, case.name)
    exported = as_program(graph.exported, case.name)
    read = read_program(json.dumps(exported.document).encode(), case.name)
    module = program.build(read)
    program.load(module, read, exported.tensors)
    return formed(module, ModelVariant().settled(module, torch.device("cpu"))).eval()


@torch.inference_mode()
def _ratio(own: nn.Module, ours: nn.Module, inputs: torch.Tensor) -> tuple[float, float]:
    best = {own: float("inf"), ours: float("inf")}
    for _ in range(RUNS):
        for module, before_s in best.items():
            begun_s = time.process_time()
            module(inputs)
            best[module] = min(before_s, time.process_time() - begun_s)
    return best[own] / best[ours], best[ours] * 1000


if __name__ == "__main__":
    main()
