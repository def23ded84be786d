"""Tensors as their bytes, little-endian, items one after another."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Tensor
from bedplate.errors import WrongShape, WrongSize
from bedplate.web.items.limits import Items, Limits, check_items

_ITEM_SHAPE = re.compile(r"[0-9]{1,5}(,[0-9]{1,5})*")


def read(body: bytes, parameters: Mapping[str, str], model: Bundle, limits: Limits) -> Items:
    return check_items(from_raw(body, model.input, parameters.get("shape")), model, limits)


def from_raw(body: bytes, spec: Tensor, declared: str | None) -> Items:
    """Items from their bytes, one after another; they are not checked yet."""
    shape = _item_shape(spec, declared)
    item_bytes = spec.item_bytes_of(shape)
    if len(body) % item_bytes:
        raise WrongSize(
            f"{len(body)} bytes are no whole number of items of {item_bytes} bytes",
            value=len(body),
            limit=item_bytes,
            next_step=f"send {spec.dtype} little-endian, shape {list(shape)} per item, items one after another",
        )
    return dtypes.from_bytes(spec.dtype, body).reshape(-1, *shape)


def _item_shape(spec: Tensor, declared: str | None) -> tuple[int, ...]:
    """Bytes have no shape of their own: it is the model's, or where that varies the one that the type declares."""
    if declared is None and not spec.varies:
        return spec.smallest
    shape = tuple(map(int, declared.split(","))) if declared and _ITEM_SHAPE.fullmatch(declared) else ()
    if not spec.accepts(shape):
        example = ",".join(map(str, spec.smallest))
        raise WrongShape(
            f"the Content-Type says no shape of an item that this model takes, wanted {spec.shown} without the items",
            value=declared if shape else None,
            limit=spec.shown,
            next_step=f"send Content-Type: application/octet-stream; shape={example}",
        )
    return shape
