"""From the metadata and bytes of a PREDICT frame to one model and one array, or an error for the caller."""

from __future__ import annotations

from typing import Any

from bedplate import dtypes
from bedplate.bundle import Bundle
from bedplate.engine.catalogue import Catalogue
from bedplate.engine.model import Model
from bedplate.engine.network import id_limit
from bedplate.engine.work import Array
from bedplate.errors import OutOfRange, TooManyItems, UnknownField, WrongShape, WrongSize
from bedplate.tensor import Tensor
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
    shape = _checked_shape(inputs[0], model.bundle.input, model.max_items, model.max_cost)
    wanted_bytes = shape[0] * model.bundle.input.item_bytes_of(shape[1:])
    if len(frame.tensors) != wanted_bytes:
        raise WrongSize(
            f"the tensor has {len(frame.tensors)} bytes, its shape needs {wanted_bytes}",
            value=len(frame.tensors),
            limit=wanted_bytes,
            next_step=f"send {model.bundle.input.dtype}, little-endian, without padding",
        )
    items = dtypes.from_bytes(model.bundle.input.dtype, frame.tensors).reshape(shape)  # (items, *input shape)
    _check_ids(items, model.bundle)
    return model, items


def _check_ids(items: Array, bundle: Bundle) -> None:
    """An id that no embedding has would fail on a processor, and on a GPU take the whole process down."""
    limit = id_limit(bundle.network)
    if limit is not None and (items.min() < 0 or items.max() >= limit):
        raise OutOfRange(
            f"an id of input '{bundle.input.name}' is not known to the model",
            value=int(items.min() if items.min() < 0 else items.max()),
            limit=limit - 1,
            next_step=f"send ids from 0 to {limit - 1}",
        )


def _checked_shape(declared: dict[str, Any], wanted: Tensor, max_items: int, max_cost: int) -> list[int]:
    if declared.keys() != {"name", "dtype", "shape"}:
        raise UnknownField("an input has exactly the fields name, dtype and shape")
    if declared["name"] != wanted.name:
        raise UnknownField(f"the input's name is not known, wanted '{wanted.name}'", limit=wanted.name)
    if declared["dtype"] != wanted.dtype:
        raise WrongShape(f"the dtype does not do, wanted {wanted.dtype}", limit=wanted.dtype)
    shape = declared["shape"]
    whole = isinstance(shape, list) and all(type(size) is int for size in shape)
    if not whole or not wanted.accepts(shape[1:]) or shape[0] < 1:
        raise WrongShape(
            "the shape does not fit the model",
            value=str(shape) if isinstance(shape, list) and all(type(size) is int for size in shape[:8]) else None,
            limit=wanted.shown,
            next_step=f"send a shape of {wanted.shown} with 1 to {max_items} items",
        )
    allowed = wanted.most_items(shape[1:], max_items, max_cost)
    if shape[0] > allowed:
        raise TooManyItems(
            f"{shape[0]} items, {allowed} are allowed at once",
            value=shape[0],
            limit=allowed,
            next_step="send several requests",
        )
    return list(shape)
