"""How much a request may hold, and of which shape: the operator's limits, or the bundle's where they are lower."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Tensor
from bedplate.errors import BodyTooLarge, InvalidRequest, NotFinite, TooManyItems, WrongShape
from bedplate.web.items import questions

Items = npt.NDArray[Any]

# Digits, sign, point, exponent, brackets and blanks of a number as JSON: what a request of full size can need.
_JSON_BYTES_PER_NUMBER = 40
_JSON_BYTES_PER_CHARACTER = 12  # two escapes
_MAX_KEPT = 32  # each keeps a bundle alive
_MAX_SHAPES = 256


@dataclass(frozen=True)
class Limits:
    body_bytes: int
    items: int


class _OfModel:
    """What is worked out once for each model, as it is asked for with every request."""

    def __init__(self, model: Bundle, given: Limits):
        self.model = model  # kept alive, so that no other gets its identity
        self.given = given
        most = min(given.body_bytes, model.max_body_bytes or given.body_bytes, _full_size(model, given))
        self.limits = Limits(most, min(given.items, model.max_items))
        self.json_bytes = json_limit(model, self.limits)
        self.taken: set[tuple[int, ...]] = set()  # shapes, items first


_kept: dict[int, _OfModel] = {}


def limits_of(model: Bundle, limits: Limits) -> Limits:
    """The operator's, or the bundle's where they are lower, or what a request of full size can need."""
    found = _kept.get(id(model))
    if found is None or found.given is not limits:
        if len(_kept) >= _MAX_KEPT:
            del _kept[next(iter(_kept))]
        found = _kept[id(model)] = _OfModel(model, limits)
    return found.limits


def _known_of(model: Bundle, limits: Limits) -> _OfModel | None:
    found = _kept.get(id(model))
    return found if found is not None and found.limits is limits else None


def _full_size(model: Bundle, limits: Limits) -> int:
    """Bytes of the longest body that can be right, as JSON or as a raw tensor with a head; of files nobody knows."""
    if model.codec or model.input.takes_files:
        return limits.body_bytes
    its = replace(limits, items=min(limits.items, model.max_items))
    return json_limit(model, its) + model.input.batch_bytes_of(model.max_cost)


def json_limit(model: Bundle, limits: Limits) -> int:
    """Bytes of JSON that a request of full size can need."""
    spec = model.input
    if spec.text:
        return min(limits.items, model.max_items) * spec.text.max_characters * _JSON_BYTES_PER_CHARACTER + 4096
    cost = min(limits.items * spec.cost_of(spec.largest), model.max_cost)
    row_bytes = questions.JSON_BYTES if model.recommendation else sum(column.json_bytes for column in spec.columns)
    return max(cost * spec.numbers_per_cost * _JSON_BYTES_PER_NUMBER, limits.items * row_bytes) + 4096


def check_json_length(body_bytes: int, model: Bundle, limits: Limits) -> None:
    """Parsing holds up every other request, so no more is parsed than the model can take."""
    known = _known_of(model, limits)
    allowed = known.json_bytes if known else json_limit(model, limits)
    if body_bytes > allowed:
        raise BodyTooLarge(
            f"the text has {body_bytes} bytes, {allowed} are allowed for this model",
            value=body_bytes,
            limit=allowed,
            next_step="send fewer items, or a raw tensor",
        )


def check_items(items: Items, model: Bundle, limits: Limits) -> Items:
    """`items`, if the model takes them.

    Raises:
        WrongShape, TooManyItems, NotFinite.
    """
    check_shape(items.shape, model, limits)
    return check_finite(items, model.input)


def check_shape(shape: tuple[int, ...], model: Bundle, limits: Limits) -> None:
    """Raises: WrongShape, TooManyItems: the model does not take items of this shape, or not so many."""
    known = _known_of(model, limits)
    if known and shape in known.taken:
        return
    if not model.input.accepts(shape[1:]) or shape[0] < 1:
        raise wrong_shape(str(list(shape)), model.input)
    check_count(shape[0], model.input.most_items(shape[1:], limits.items, model.max_cost))
    if known and len(known.taken) < _MAX_SHAPES:
        known.taken.add(shape)


def check_finite(items: Items, spec: Tensor) -> Items:
    """Raises: NotFinite: a number among `items` is NaN or infinite."""
    if spec.is_floating and not spec.finite(items).all():
        raise NotFinite("an input is NaN or infinite", next_step="send finite numbers")
    return items


def check_count(count: int, most: int) -> None:
    if count > most:
        raise TooManyItems(
            f"{count} items, {most} are allowed in a request",
            value=count,
            limit=most,
            next_step="split them over several requests",
        )


def wrong_shape(found: str, spec: Tensor) -> InvalidRequest:
    return WrongShape(f"inputs have shape {found}, wanted {spec.shown}", value=found, limit=spec.shown)
