"""From the metadata and bytes of a PREDICT frame to one model and one array, or an error for the caller."""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.bundle import Tensor
from bedplate.engine.batcher import Array
from bedplate.engine.catalogue import Catalogue
from bedplate.engine.model import Model
from bedplate.errors import TooManyItems, UnknownField, WrongShape, WrongSize
from bedplate.wire import Frame


def open_request(frame: Frame, catalogue: Catalogue) -> tuple[Model, Array]:
    """The model that a PREDICT frame asks for, and its input.

    Raises:
        InvalidRequest: what the frame says and what the model takes do not agree.
    """
    meta = frame.meta
    if meta.keys() - {"model", "version", "inputs"}:
        raise UnknownField("the request has fields beside model, version and inputs")
    model = catalogue.find(meta.get("model"), meta.get("version"))
    inputs = meta.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise WrongShape("wanted one input", next_step="send one input with name, dtype and shape")
    items = _checked_items(inputs[0], model.bundle.input, model.max_items)
    wanted_bytes = items * model.bundle.input.item_bytes
    if len(frame.tensors) != wanted_bytes:
        raise WrongSize(
            f"the tensor has {len(frame.tensors)} bytes, its shape needs {wanted_bytes}",
            value=len(frame.tensors),
            limit=wanted_bytes,
            next_step="send float32, little-endian, without padding",
        )
    return model, np.frombuffer(frame.tensors, "<f4").reshape(items, *model.bundle.input.shape)


def _checked_items(declared: dict[str, Any], wanted: Tensor, max_items: int) -> int:
    if declared.keys() != {"name", "dtype", "shape"}:
        raise UnknownField("an input has exactly the fields name, dtype and shape")
    if declared["name"] != wanted.name:
        raise UnknownField(f"the input's name is not known, wanted '{wanted.name}'", limit=wanted.name)
    if declared["dtype"] != wanted.dtype:
        raise WrongShape(f"the dtype does not do, wanted {wanted.dtype}", limit=wanted.dtype)
    shape = declared["shape"]
    fits = isinstance(shape, list) and all(type(size) is int for size in shape) and shape[1:] == list(wanted.shape)
    if not fits or shape[0] < 1:
        sizes = ", ".join(map(str, wanted.shape))
        raise WrongShape(
            "the shape does not fit the model",
            value=str(shape) if isinstance(shape, list) and all(type(size) is int for size in shape[:8]) else None,
            limit=f"[items, {sizes}]",
            next_step=f"send a shape of [items, {sizes}] with 1 to {max_items} items",
        )
    if shape[0] > max_items:
        raise TooManyItems(
            f"{shape[0]} items, {max_items} are allowed at once",
            value=shape[0],
            limit=max_items,
            next_step="send several requests",
        )
    return int(shape[0])
