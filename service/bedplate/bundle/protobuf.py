"""Reads protobuf's wire format by a table of fields, more strictly than its own library does.

What libraries read in different ways is refused, so that whoever reads the same bytes later finds the same in them: a
field that the table does not have, a single field that stands twice, groups, numbers that do not fit. Bytes are not
copied: of weights a view is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELD_NUMBER = (1 << 29) - 1
_MESSAGE = 8  # fields, that a message is as large as
# Kinds of fields that are no messages.
WHOLE, FLOAT, TEXT, RAW = "whole", "float", "text", "raw"
WHOLES, FLOATS, DOUBLES = "wholes", "floats", "doubles"  # repeated; packed or not
_WIDTH = {FLOATS: 4, DOUBLES: 8}


class Malformed(ValueError):
    """The bytes are no message of this table."""


@dataclass(frozen=True)
class Field:
    """
    Args:
        kind: one of the kinds above, or the name of a message of the tables.
        most: how often it may stand.
        refused: why no message may have it; empty if it may.
    """

    name: str
    kind: str
    most: int = 1
    refused: str = ""


Tables = Mapping[str, Mapping[int, Field]]


@dataclass(frozen=True)
class Packed:
    """Many numbers, not yet decoded."""

    kind: str
    parts: tuple[memoryview | int, ...]  # packed ones, and single ones of the kind WHOLES

    def __len__(self) -> int:
        width = _WIDTH.get(self.kind)
        return sum(1 if isinstance(part, int) else len(part) // width if width else _ends(part) for part in self.parts)

    def wholes(self) -> Iterator[int]:
        """The numbers of the kind WHOLES, with their sign.

        Raises:
            Malformed: they are none.
        """
        for part in self.parts:
            if isinstance(part, int):
                yield _signed(part)
                continue
            at = 0
            while at < len(part):
                number, at = _varint(part, at)
                yield _signed(number)


class Message(dict[str, Any]):
    """Fields by name. What may stand more than once is a list, [] where it does not stand; of others there is `get`."""

    def __missing__(self, name: str) -> list[Any]:
        return []


@dataclass
class Budget:
    """What is left to be read: a small file could become many objects.

    Args:
        depth: of messages inside of one another.
        fields: of all messages; a message counts as _MESSAGE fields.
    """

    depth: int
    fields: int = 8_000_000

    def spend(self, fields: int) -> None:
        self.fields -= fields
        if self.fields < 0:
            raise Malformed("has too many fields")


def parse(tables: Tables, kind: str, data: memoryview, budget: Budget) -> Message:
    """
    Raises:
        Malformed: says where and what.
    """
    if budget.depth < 1:
        raise Malformed(f"{kind}: lies too deep inside of others")
    budget.spend(_MESSAGE)
    budget.depth -= 1
    table = tables[kind]
    found = Message()
    packed: dict[str, list[memoryview | int]] = {}
    for number, wire, value in _fields(data, kind):
        budget.spend(1)
        field = table.get(number)
        where = f"{kind}.{field.name}" if field else kind
        if field is None:
            raise Malformed(f"{where}: has field {number}, which is not known here")
        if field.refused:
            raise Malformed(f"{where}: {field.refused}")
        if field.kind in (WHOLES, FLOATS, DOUBLES):
            packed.setdefault(field.name, []).append(_many(field.kind, wire, value, where))
            continue
        read = _one(tables, field.kind, wire, value, where, budget)
        if field.most > 1:
            several = found.setdefault(field.name, [])
            several.append(read)
            if len(several) > field.most:
                raise Malformed(f"{where}: there are more than {field.most}")
        elif field.name in found:
            raise Malformed(f"{where}: stands twice")
        else:
            found[field.name] = read
    budget.depth += 1
    kinds = {field.name: field.kind for field in table.values()}
    found.update({name: Packed(kinds[name], tuple(parts)) for name, parts in packed.items()})
    return found


def _fields(data: memoryview, kind: str) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type, and an int or a view of bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise Malformed(f"{kind}: has a field of the number {number}")
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise Malformed(f"{kind}: field {number} has the wire type {wire}, which nobody writes")
        if size > len(data) - at:
            raise Malformed(f"{kind}: field {number} ends beyond the message that holds it")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= 1 << 64:
                raise Malformed("a number has more than 64 bits")
            return number, at
        shift += 7
    raise Malformed("a number does not end")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _one(tables: Tables, kind: str, wire: int, value: Any, where: str, budget: Budget) -> Any:
    wanted = {WHOLE: _VARINT, FLOAT: _FIXED32}.get(kind, _BYTES)
    if wire != wanted:
        raise Malformed(f"{where}: has the wire type {wire}, wanted {wanted}")
    if kind == WHOLE:
        return _signed(value)
    if kind == FLOAT:
        return float(np.frombuffer(value, "<f4")[0])
    if kind == RAW:
        return value
    if kind == TEXT:
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"{where}: is no text") from None
    return parse(tables, kind, value, budget)


def _many(kind: str, wire: int, value: Any, where: str) -> memoryview | int:
    """One or several numbers of a repeated field."""
    if kind == WHOLES:
        if wire == _VARINT:
            return int(value)
        if wire == _BYTES and (not len(value) or value[-1] < 0x80):
            return memoryview(value)
    elif wire == (_FIXED32 if kind == FLOATS else _FIXED64) or (wire == _BYTES and len(value) % _WIDTH[kind] == 0):
        return memoryview(value)
    raise Malformed(f"{where}: is no list of {kind}")


def _ends(part: memoryview) -> int:
    """How many varints there are: each ends with a byte below 0x80."""
    return int((np.frombuffer(part, np.uint8) < 0x80).sum())
