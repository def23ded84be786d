"""What is asked for: models, inputs, the bytes of each request, and what a right answer is. No torch in here."""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.environment import ROOT, SHARED, isolated, python_of

Array = npt.NDArray[Any]
FOLDER = ROOT / "build" / "benchmarks" / "peers" / "data"
INPUT, OUTPUT = "x", "logits"
DATATYPES = {"float32": "FP32", "int64": "INT64"}  # as the protocol calls them
CHECKED = 32
# Of the largest logit. Batches of other sizes round differently, by about a millionth.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Model:
    name: str
    shape: tuple[int, ...]  # of one item
    outputs: int
    inputs: int  # how many different ones there are
    is_json: bool
    clients: tuple[int, ...]
    most_per_batch: int  # more does not help on a processor
    dtype: str = "float32"  # of what goes in
    convolves: bool = False


MODELS = {
    "tiny": Model("tiny", (64,), 10, 256, True, (1, 16, 64, 256), 64),
    "cnn": Model("cnn", (3, 224, 224), 1000, 32, False, (1, 16), 8, convolves=True),
    "transformer": Model("transformer", (128,), 1000, 256, False, (1, 16), 8, "int64"),
}


class WrongAnswer(Exception):
    """A server answered something else than torch."""


@dataclass(frozen=True)
class Dialect:
    """How a server is spoken to."""

    headers: dict[str, str]
    protocol: bool  # the Open Inference Protocol, with its binary extension where a model is not asked in JSON


@dataclass(frozen=True)
class Case:
    model: Model
    inputs: Array  # (inputs, *shape)
    expected: Array  # (inputs, outputs)
    label_of_ones: int  # which logit is the largest where every number of the input is 1
    folder: Path = FOLDER  # where the weights are, NAME.safetensors

    def body(self, number: int, dialect: Dialect) -> bytes:
        item = self.inputs[number]
        if self.model.is_json:
            return as_json(item)
        raw = item.tobytes()
        return binary_head(self.model, len(raw)) + raw if dialect.protocol else raw

    def headers(self, dialect: Dialect) -> dict[str, str]:
        given = {"Host": "bench", "Content-Type": "application/json", **dialect.headers}
        if not self.model.is_json:
            given["Content-Type"] = "application/octet-stream"
            if dialect.protocol:
                size = self.inputs[0].nbytes
                given["Inference-Header-Content-Length"] = str(len(binary_head(self.model, size)))
        return given

    @property
    def least_answer_bytes(self) -> int:
        """Of any right answer's body: ten numbers as JSON, or all of them as float32."""
        return 60 if self.model.is_json else 4 * self.model.outputs

    def read(self, body: bytes, head_bytes: str | None) -> Array:
        """The logits of one answer.

        Args:
            head_bytes: what the answer's Inference-Header-Content-Length says.
        """
        if self.model.is_json:
            document: Any = json.loads(body)
            # Some servers have the last word on the outermost bracket.
            outputs = document if isinstance(document, list) else document["outputs"]
            numbers = outputs[0]["data"]
            return np.asarray(numbers, np.float32).reshape(-1)
        return np.frombuffer(body[int(head_bytes or 0) :], "<f4")

    def is_right(self, number: int, answer: Array) -> bool:
        wanted = self.expected[number % len(self.expected)]
        return answer.shape == wanted.shape and bool(np.abs(answer - wanted).max() <= self.tolerance)

    @functools.cached_property
    def tolerance(self) -> float:
        return TOLERANCE * float(np.abs(self.expected).max())


def as_json(item: Array) -> bytes:
    """The Open Inference Protocol's request; every server gets it, whether it knows the protocol or not."""
    numbers = [round(float(number), 4) for number in item.reshape(-1)]
    tensor = {"name": INPUT, "shape": [1, *item.shape], "datatype": "FP32", "data": numbers}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":")).encode()


def binary_head(model: Model, size: int) -> bytes:
    parameters = {"binary_data_size": size}
    asked = {"name": INPUT, "shape": [1, *model.shape], "datatype": DATATYPES[model.dtype], "parameters": parameters}
    wanted = {"name": OUTPUT, "parameters": {"binary_data": True}}
    return json.dumps({"inputs": [asked], "outputs": [wanted]}, separators=(",", ":")).encode()


def load(name: str) -> Case:
    """Made once, by torch, in a process of its own: memory that this one shared with a server would flatter it."""
    if not (FOLDER / f"{name}.npz").exists():
        command = [str(python_of(SHARED)), "-m", "benchmarks.peers.prepare", str(FOLDER)]
        subprocess.run(command, check=True, cwd=ROOT, env=isolated())
    with np.load(FOLDER / f"{name}.npz") as kept:
        case = Case(MODELS[name], kept["inputs"], kept["expected"], int(kept["label_of_ones"]))
    require_distinct(case)
    return case


def require_distinct(case: Case) -> None:
    """Answers that hardly differ would not show that two requests were mixed up."""
    answers = case.expected[:CHECKED]
    for number, answer in enumerate(answers[1:], 1):
        nearest = float(np.abs(answers[:number] - answer).max(axis=1).min())
        if nearest < 10 * case.tolerance:
            raise ValueError(f"{case.model.name}: two answers differ by {nearest:.2g}, which proves nothing")
