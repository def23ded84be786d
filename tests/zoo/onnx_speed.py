"""`python -m tests.zoo.onnx_speed`: bundles that are ONNX beside onnxruntime alone with the same file, one thread.

Each is exported by torch.onnx, or fitted by scikit-learn, and imported by the one command. Of runs in turns of random
order the best counts, so that what else the machine does meets both alike.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bedplate.bundle.bundle import read_bundle
from bedplate.engine import allocator
from bedplate.engine.model import Model
from bedplate.engine.runtime import onnxruntime
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from torch import nn

_SECONDS = 6.0  # of each comparison
_LEAST_S = 0.0005  # of a run
_COLUMNS = 20
Run = Callable[[], Any]


class Block(nn.Module):
    def __init__(self, taken: int, given: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(taken, given, 3, stride, 1, bias=False), nn.BatchNorm2d(given), nn.ReLU(),
            nn.Conv2d(given, given, 3, 1, 1, bias=False), nn.BatchNorm2d(given),
        )  # fmt: skip
        self.beside = nn.Conv2d(taken, given, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.beside(x))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5000, 256)
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True), 4)
        self.head = nn.Linear(256, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.words(ids)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.GRU(40, 128, 2, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x)[0][:, -1])


def convolutions() -> nn.Module:
    """Of ResNet-18's shape."""
    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    blocks = [Block(*size) for size in [*sizes, (512, 512, 1)]]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor], int]] = {
    "CNN of ResNet-18's shape": (convolutions, lambda: torch.randn(2, 3, 224, 224), 8),
    "transformer, 4 layers of 256, 64 tokens": (Transformer, lambda: torch.randint(0, 5000, (2, 64)), 16),
    "GRU, 2 layers of 128, 50 steps": (Recurrent, lambda: torch.randn(2, 50, 40), 32),
    "perceptron, 3 layers": (perceptron, lambda: torch.randn(2, 64), 64),
}
TREES = {
    "random forest, 200 trees": (RandomForestClassifier(200, random_state=0), True),
    "boosted trees, 200": (GradientBoostingRegressor(n_estimators=200, random_state=0), False),
}


def main() -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    allocator.keep_memory()
    print("| model | compared | batch of 1 | ms | eager | batch of | | ms | eager |\n" + "|---" * 9 + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, example, most) in MODULES.items():
            module, inputs = make().eval(), example()
            file = Path(folder) / "model.onnx"
            free = {0: torch.export.Dim("items", min=1, max=64)}
            torch.onnx.export(
                module, (inputs,), str(file), dynamo=True, external_data=False, verbose=False, dynamic_shapes=(free,)
            )
            said = _imported("onnx", file, "--max-items", most)
            _print(name, said, file.parent / "out", inputs.numpy(), module)
        for name, (model, classifies) in TREES.items():
            import joblib  # noqa: PLC0415 - of the extra `import-tables`

            rows = np.random.default_rng(0).normal(size=(2000, _COLUMNS))
            answer = (rows[:, :3] ** 2).sum(axis=1)
            np.save(Path(folder) / "rows.npy", rows)
            file = Path(folder) / "model.joblib"
            joblib.dump(model.fit(rows, (answer // 2).astype(int) if classifies else answer), file)
            said = _imported("sklearn", file, "--rows", Path(folder) / "rows.npy")
            _print(name, said, file.parent / "out", rows[:2].astype(np.float32), None)


def _imported(source: str, file: Path, *options: Any) -> str:
    """Return the line that tells the difference."""
    out = file.parent / "out"
    subprocess.run(["rm", "-rf", str(out)], check=True)
    command = [sys.executable, "-m", "bedplate", "bundle", "import", source, file, "--output", out, *options]
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=True)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("compared")]
    return line.partition("difference ")[2]


def _print(name: str, said: str, directory: Path, inputs: Any, module: nn.Module | None) -> None:
    bundle = read_bundle(directory)
    model = Model.load(bundle, directory, torch.device("cpu"))
    model.warm_up()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    file = directory / bundle.onnx
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    [taken], [given] = session.get_inputs(), session.get_outputs()
    told = []
    for items in (1, bundle.max_items):
        batch = np.concatenate([inputs] * ((items + 1) // 2))[:items]
        runs: dict[str, Run] = {
            "ours": lambda batch=batch: model.run(batch),
            "alone": lambda batch=batch: session.run([given.name], {taken.name: batch}),
        }
        if module is not None:
            runs["eager"] = lambda batch=batch: _eager(module, batch)
        best_s = _best(runs)
        ratio = best_s["alone"] / best_s["ours"]
        eager = f"{best_s['eager'] / best_s['ours']:.1f}x" if module is not None else ""
        told.append(f"{ratio:.2f}x | {best_s['ours'] * 1000:.3g} | {eager}")
    print(f"| {name} | {said} | {told[0]} | {bundle.max_items} | {told[1]} |", flush=True)


@torch.inference_mode()
def _eager(module: nn.Module, batch: Any) -> torch.Tensor:
    result: torch.Tensor = module(torch.from_numpy(batch))
    return result


def _best(runs: dict[str, Run]) -> dict[str, float]:
    """Seconds of one run, the best of many turns."""
    best_s, often = dict.fromkeys(runs, float("inf")), dict.fromkeys(runs, 1)
    ends_s = time.monotonic() + _SECONDS
    turns = 0
    while time.monotonic() < ends_s or turns < 8:
        turns += 1
        for name in random.sample(sorted(runs), len(runs)):
            begun_s = time.process_time()
            for _ in range(often[name]):
                runs[name]()
            took_s = (time.process_time() - begun_s) / often[name]
            best_s[name] = min(best_s[name], took_s)
            often[name] = max(1, int(_LEAST_S / took_s))
    return best_s


if __name__ == "__main__":
    main()
