"""A model of 2x2 grey pixels and an engine pool that serves it without an engine."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import numpy as np
from bedplate import errors
from bedplate.bundle.bundle import Bundle
from bedplate.errors import EngineUnavailable, ServiceError, UnknownModel
from bedplate.web.engines.served import Served, find
from bedplate.web.options import RequestOptions
from bedplate.wire import Frame, Type
from PIL import Image

DIGEST = "d" * 64  # of a SHA256SUMS that does not exist


def png_of(pixels: Any, mode: str = "L", kind: str = "PNG") -> bytes:
    """pixels (height, width) or (height, width, 3) uint8 → the bytes of a picture."""
    out = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8), mode=None).convert(mode).save(out, kind)
    return out.getvalue()


def description(**changes: Any) -> dict[str, Any]:
    """A model of 2x2 grey pixels that the fake engine sums into class 'dark' or 'bright'."""
    document = {
        "format": 1,
        "name": "lamp",
        "version": "1",
        "task": "image-classification",
        "description": "Is the lamp on",
        "inputs": [
            {
                "name": "image",
                "dtype": "float32",
                "shape": [1, 2, 2],
                "image": {"mode": "L", "height": 2, "width": 2, "scale": 1 / 255, "mean": [0.5], "std": [0.5]},
            }
        ],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [2]}],
        "labels": ["dark", "bright"],
        "activation": "softmax",
        "batch": {"max_items": 8},
        "weights": "weights.safetensors",
        "network": ["flatten"],
        "canary": {"file": "canary.png", "label": "bright"},
        "canary_bytes": base64.b64encode(png_of([[255, 255], [255, 255]])).decode(),
        "digest": DIGEST,
    }
    return {**document, **changes}


VARYING = {
    "task": "classification",
    "inputs": [{"name": "image", "dtype": "float32", "shape": [1, [2, 8], [2, 6]]}],
    "batch": {"max_items": 8, "max_cost": 96},
    "canary": {"file": "canary.json", "label": "bright"},
    "canary_bytes": base64.b64encode(b'{"inputs": [[[1, 1], [1, 1]]]}').decode(),
}


def varying(**changes: Any) -> dict[str, Any]:
    """The lamp for tensors of 2 to 8 rows and 2 to 6 columns, which cost as much as they have pixels."""
    return description(**{**VARYING, **changes})


def _json(**document: Any) -> bytes:
    return json.dumps(document).encode()


def numbers(dtype: str, **changes: Any) -> dict[str, Any]:
    """A model without classes that gives the 2 x 3 numbers back that it is given."""
    canary = [[[True, False, True], [False, False, True]] if dtype == "bool" else [[1, 2, 3], [4, 5, 6]]]
    document = description(
        task="tensors",
        inputs=[{"name": "numbers", "dtype": dtype, "shape": [2, 3]}],
        outputs=[{"name": "same", "dtype": dtype, "shape": [2, 3]}],
        network=["identity"],
        canary={"file": "canary.json", "expect": "expected.json", "tolerance": 0.001},
        canary_bytes=base64.b64encode(_json(inputs=canary[0])).decode(),
        expect_bytes=base64.b64encode(_json(outputs=canary)).decode(),
    )
    for key in ("labels", "activation"):
        del document[key]
    return {**document, **changes}


COLUMNS = [
    {"name": "power", "unit": "W", "range": [0, 100], "mean": 50, "std": 25, "missing": 50},
    {"name": "age", "range": [0, 30], "mean": 0, "std": 1},
    {"name": "socket", "categories": ["E14", "E27", "GU10"], "missing": "E27"},
    {"name": "kind", "categories": ["LED", "halogen"]},
]
ROW = {"power": 75, "age": 2, "socket": "E14", "kind": "LED"}


def tabular(task: str = "tabular-classification", **changes: Any) -> dict[str, Any]:
    """The lamp by its data sheet: 7 numbers of which the fake engine takes the mean."""
    document = description(
        task=task,
        inputs=[{"name": "features", "dtype": "float32", "shape": [7], "columns": COLUMNS}],
        canary={"file": "canary.json", "label": "bright"},
        canary_bytes=base64.b64encode(_json(inputs=[ROW])).decode(),
    )
    if task == "tabular-regression":
        document["canary"] = {"file": "canary.json", "expect": "expected.json", "tolerance": 0.001}
        document["expect_bytes"] = base64.b64encode(_json(outputs=[[-1, 1]])).decode()
        for key in ("labels", "activation"):
            del document[key]
    return {**document, **changes}


def recommending(**changes: Any) -> dict[str, Any]:
    """Which lamps somebody may like; the fake engine does not know."""
    document = description(
        task="recommendation",
        recommendation={"users": "users.json", "items": "items.json", "seen": "seen.safetensors", "max_k": 3},
        canary={"file": "canary.json", "item": "GU10"},
        canary_bytes=base64.b64encode(_json(inputs=[{"user": "ann", "k": 1}])).decode(),
    )
    for key in ("inputs", "outputs", "network", "labels", "activation"):
        del document[key]
    return {**document, **changes}


CODEC = """
import json

import numpy as np


def decode(content, content_type):
    rows = json.loads(content)
    return np.array([rows], np.float32)


def encode(outputs):
    return {"sum": float(outputs.sum())}
"""


def custom(codec: str = CODEC, **changes: Any) -> dict[str, Any]:
    """A model that sums 2 x 3 numbers: it takes them as JSON, and says so as JSON."""
    document = numbers(
        "float32",
        task="custom",
        codec="codec.py",
        canary={"file": "canary.json", "content_type": "text/json", "expect": "expected.json", "tolerance": 0.001},
        canary_bytes=base64.b64encode(json.dumps([[1, 2, 3], [4, 5, 6]]).encode()).decode(),
        expect_bytes=base64.b64encode(_json(predictions=[{"sum": 21}])).decode(),
        codec_bytes=base64.b64encode(codec.encode()).decode(),
    )
    return {**document, **changes}


def lamp_logits(items: Any) -> Any:
    """items (n, 1, height, width) float32 in -1..1 → logits (n, 2): the mean decides."""
    brightness = items.reshape(len(items), -1).mean(axis=1)
    return np.stack([-brightness, brightness], axis=1).astype(np.float32)


class _Member:
    def __init__(self, waiting: Any):
        self.waiting = waiting

    def hand_to(self, waiting: Any) -> None:
        self.waiting = waiting

    def give_up(self) -> None:
        pass


class FakeEngines:
    """Stands where EnginePool stands; answers like engines that serve the lamp."""

    def __init__(self, **changes: Any) -> None:
        self.engines: list[Any] = []
        self.error: Exception | None = None
        self.digest = DIGEST
        self.asked: list[Any] = []  # items (n, 1, 2, 2) of each request
        self.versions: list[str] = []  # of each request
        self.options: list[RequestOptions] = []  # of each request
        self.serve(description(**changes))

    def serve(self, *models: dict[str, Any], aliases: dict[str, dict[str, str]] | None = None) -> None:
        self._served = Served.from_meta({"models": list(models), "aliases": aliases or {}})

    async def served(self) -> Served:
        if isinstance(self.error, EngineUnavailable):
            raise self.error
        return self._served

    async def models(self) -> dict[str, Bundle]:
        return {name: await self.model(name) for name in (await self.served()).names}

    async def model(self, name: str, wanted: str | None = None) -> Bundle:
        bundle = find([await self.served()], name, wanted)
        if bundle is None:
            raise UnknownModel("no such model")
        return bundle

    def connected_model(self, name: str, wanted: str | None) -> Bundle | None:
        return find([self._served], name, wanted)

    def is_connected(self, model: Bundle) -> bool:
        return not isinstance(self.error, EngineUnavailable)

    def begin(self, meta: dict[str, Any], tensors: Any, options: RequestOptions, waiting: Any) -> Any:
        """As the pool's: `waiting` is told in a later turn of the loop."""

        member = _Member(waiting)

        def come() -> None:
            if member.waiting.done():
                return
            try:
                member.waiting.set_result(self.frame(meta, tensors, options))
            except ServiceError as error:
                member.waiting.set_result(Frame(Type.ERROR, 1, error.to_meta()))

        asyncio.get_running_loop().call_soon(come)
        return None, member

    async def predict(self, meta: dict[str, Any], tensors: Any, options: RequestOptions, begun: Any = None) -> Frame:
        if begun:
            raise errors.from_meta(begun[1].meta)
        return self.frame(meta, tensors, options)

    def frame(self, meta: dict[str, Any], tensors: Any, options: RequestOptions) -> Frame:
        if self.error:
            raise self.error
        items = np.frombuffer(bytes(tensors), np.float32).reshape(meta["inputs"][0]["shape"])
        self.asked.append(items)
        self.versions.append(meta["version"])
        self.options.append(options)
        logits = lamp_logits(items)
        answer = {
            "model": meta["model"],
            "version": meta["version"],
            "digest": self.digest,
            "outputs": [{"name": "logits", "dtype": "float32", "shape": list(logits.shape)}],
            "queue_ns": 1000,
            "batch_ns": 3000,
            "compute_ns": 2000,
            "batch_items": len(items),
        }
        return Frame(Type.RESULT, 1, answer, logits.tobytes())

    def close(self) -> None:
        pass
