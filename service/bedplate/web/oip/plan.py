"""What decoding and encoding need to know of a model, worked out once: it is asked for with every request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from bedplate.bundle.bundle import Bundle
from bedplate.web.items.limits import Limits, check_shape, json_limit, limits_of
from bedplate.web.oip.datatypes import Datatype, datatype_of

_MAX_PLANS = 32  # each keeps a bundle alive
_MAX_SHAPES = 256


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output as a client asked for it."""

    name: str
    binary: bool = False
    classes: int = 0  # as texts of the best so many; 0: as it is


class Shape(NamedTuple):
    """A shape that was checked, items first."""

    sizes: tuple[int, ...]
    numbers: int
    packer: Struct | None  # from JSON numbers; None where the datatype has no JSON


class Plan:
    """Of one model under the limits of one process."""

    def __init__(self, model: Bundle, limits: Limits):
        self.model = model
        self.given_limits = limits
        self.limits = limits_of(model, limits)
        self.taken: Datatype = datatype_of(model.input)
        self.given: Datatype = datatype_of(model.output)
        # The mean of a file's parts is no whole number.
        self.takes_media = bool(model.input.image) or (model.input.cuts_files and model.output.is_floating)
        self.json_bytes = json_limit(model, self.limits)
        self.all_as_json = (Wanted(model.output.name),)
        self.all_as_binary = (Wanted(model.output.name, binary=True),)
        self._shapes: dict[tuple[int, ...], Shape] = {}

    def shape(self, sizes: tuple[int, ...]) -> Shape:
        """The shape of a request's tensor, items first.

        Raises:
            WrongShape, TooManyItems: the model does not take it.
        """
        found = self._shapes.get(sizes)
        if found is None:
            check_shape(sizes, self.model, self.limits)
            numbers = math.prod(sizes)
            packer = Struct(f"<{numbers}{self.taken.code}") if self.taken.code else None
            found = Shape(sizes, numbers, packer)
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            self._shapes[sizes] = found
        return found


_plans: dict[int, Plan] = {}


def plan_of(model: Bundle, limits: Limits) -> Plan:
    """By identity, which a plan keeps by keeping its model alive: comparing bundles would cost more than it saves."""
    found = _plans.get(id(model))
    if found is not None and found.given_limits is limits:
        return found
    if len(_plans) >= _MAX_PLANS:
        del _plans[next(iter(_plans))]
    found = _plans[id(model)] = Plan(model, limits)
    return found
