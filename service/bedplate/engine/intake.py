"""Validates metadata and bytes of a PREDICT frame: they become one model and one array, or an error for the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bedplate.bundle import dtypes
from bedplate.bundle.tensor import Tensor
from bedplate.engine.catalogue import Catalogue
from bedplate.engine.model import Model
from bedplate.engine.network import id_limit_of
from bedplate.engine.work import Array
from bedplate.errors import OutOfRange, TooManyItems, UnknownField, WrongShape, WrongSize


@dataclass(slots=True)
class ValidatedRequest:
    """Validated metadata of a PREDICT frame; all frames that carry the same metadata share it."""

    model: Model
    shape: list[int]  # [items, *input shape]
    cost: int  # of all items
    wanted_bytes: int
    id_limit: int | None  # of a model whose input are ids
    alone: bool  # shares a batch with no other

    def read(self, tensors: bytes | memoryview) -> Array:
        """Return the input of one frame, (items, *input shape).

        Raises:
            WrongSize: the tensor does not have the declared shape.
            OutOfRange, UnknownUser: the model does not know an id or a name.
        """
        spec = self.model.bundle.input
        if len(tensors) != self.wanted_bytes:
            raise WrongSize(
                f"the tensor has {len(tensors)} bytes, its shape needs {self.wanted_bytes}",
                value=len(tensors),
                limit=self.wanted_bytes,
                next_step=f"send {spec.dtype}, little-endian, without padding",
            )
        items = dtypes.from_bytes(spec.dtype, tensors).reshape(self.shape)
        if self.id_limit is not None:
            _check_ids(items, self.id_limit, spec.name)
        if self.model.bundle.recommendation:
            self.model.require_known(items)
        return items


def validate(meta: dict[str, Any], catalogue: Catalogue) -> ValidatedRequest:
    """Validate the metadata of a PREDICT frame.

    Raises:
        InvalidRequest: they do not match what the model takes.
    """
    if meta.keys() - {"model", "version", "inputs", "alone"}:
        raise UnknownField("the request has fields beside model, version, inputs and alone")
    model = catalogue.find(meta.get("model"), meta.get("version"))
    inputs = meta.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise WrongShape("wanted one input", next_step="send one input with name, dtype and shape")
    bundle = model.bundle
    spec = bundle.input
    shape = _checked_shape(inputs[0], spec, model.max_items, model.max_cost)
    cost, wanted_bytes = shape[0] * spec.cost_of(shape[1:]), shape[0] * spec.item_bytes_of(shape[1:])
    return ValidatedRequest(model, shape, cost, wanted_bytes, id_limit_of(bundle), meta.get("alone") is True)


def _check_ids(items: Array, limit: int, name: str) -> None:
    """An id that no embedding has would fail on a processor, and on a GPU take the whole process down."""
    if items.min() < 0 or items.max() >= limit:
        raise OutOfRange(
            f"an id of input '{name}' is not known to the model",
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
