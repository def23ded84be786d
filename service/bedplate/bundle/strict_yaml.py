"""Strict reading of bundle.yaml: the bundle is refused unless every key is known, typed and within bounds."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import yaml


class BundleError(Exception):
    """A bundle that cannot be used. The message names the file, the key, the value and a remedy."""


class Disagreement(BundleError):
    """Keys that are each valid, and contradict each other."""


class _Loader(yaml.SafeLoader):
    """Plain YAML: no aliases (they multiply a small file), no key twice (the first would be lost silently)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            where = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"aliases are not allowed, write the value out{where}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.YAMLError(f"key {key.value!r} stands twice{node.start_mark}")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def words_of(error: BaseException, most: int = 300) -> str:
    """Return what an error says, in one line of at most `most` characters."""
    return " ".join(str(error).split())[:most]


def parse_yaml(text: bytes, source: str) -> object:
    try:
        return yaml.load(text, Loader=_Loader)
    # What YAML's own constructors raise on odd tags and dates is not all YAMLError.
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{source}: is not plain YAML ({' '.join(str(error).split())})") from None


class Section:
    """One mapping. The reader takes each key once; `done` refuses what is left."""

    def __init__(self, source: str, raw: object, path: str = ""):
        self._source = source
        self._path = path
        if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
            raise BundleError(f"{source}: {path or 'the document'}: wanted 'key: value' lines")
        self._raw: dict[str, Any] = dict(raw)
        self._known: list[str] = []

    def refuse(self, key: str, value: object, wanted: str) -> BundleError:
        return BundleError(self._refusal(key, value, wanted))

    def disagree(self, key: str, value: object, wanted: str) -> Disagreement:
        """Return the error for a value that contradicts another key."""
        return Disagreement(self._refusal(key, value, wanted))

    def _refusal(self, key: str, value: object, wanted: str) -> str:
        shown = repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        return f"{self._source}: {self._path}{key}: {shown} does not do, wanted {wanted}"

    def take(self, key: str) -> Any:
        self._known.append(key)
        if key not in self._raw:
            raise BundleError(f"{self._source}: {self._path}{key}: is missing; add '{key}: ...'")
        return self._raw.pop(key)

    @property
    def keys(self) -> list[str]:
        """What is left of it, where its author chooses the keys."""
        return list(self._raw)

    def has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._raw

    def done(self) -> None:
        for key in self._raw:
            known = ", ".join(dict.fromkeys(self._known))
            raise BundleError(f"{self._source}: {self._path}{key}: unknown key; known keys here are {known}")

    def text(self, key: str, pattern: str = r"[^\x00-\x1f\x7f]{1,1000}") -> str:
        value = self.take(key)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise self.refuse(key, value, f"a text like {pattern}")
        return value

    def choice(self, key: str, choices: Collection[str]) -> str:
        value = self.take(key)
        if not isinstance(value, str) or value not in choices:
            raise self.refuse(key, value, " or ".join(choices))
        return value

    def flag(self, key: str) -> bool:
        value = self.take(key)
        if not isinstance(value, bool):
            raise self.refuse(key, value, "true or false")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.take(key)
        if not _is_integer(value, low, high):
            raise self.refuse(key, value, f"a whole number from {low} to {high}")
        return int(value)

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        value = self.take(key)
        if not isinstance(value, list) or not value or not all(_is_integer(item, low, high) for item in value):
            raise self.refuse(key, value, f"a list of whole numbers from {low} to {high}")
        return tuple(value)

    def number(self, key: str, low: float, high: float) -> float:
        value = self.take(key)
        if not _is_number(value, low, high):
            raise self.refuse(key, value, f"a number from {low} to {high}")
        return float(value)

    def numbers(self, key: str, count: int, low: float, high: float) -> tuple[float, ...]:
        value = self.take(key)
        if not isinstance(value, list) or len(value) != count or not all(_is_number(n, low, high) for n in value):
            raise self.refuse(key, value, f"a list of {count} numbers from {low} to {high}")
        return tuple(float(item) for item in value)

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        value = self.take(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and 1 <= len(item) <= 200 for item in value):
            raise self.refuse(key, value, 'a list of texts (numbers need quotes: "7")')
        if not 1 <= len(value) <= most or len(set(value)) != len(value):
            raise self.refuse(key, value, f"1 to {most} texts, each different")
        return tuple(value)

    def section(self, key: str) -> Section:
        return Section(self._source, self.take(key), f"{self._path}{key}.")

    def sections(self, key: str, most: int) -> list[Section]:
        """Take a list of mappings."""
        value = self.take(key)
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise self.refuse(key, value, f"a list of 1 to {most} entries")
        return [Section(self._source, entry, f"{self._path}{key}[{n}].") for n, entry in enumerate(value)]

    def only_section(self, key: str) -> Section:
        """Take a list of mappings that has one member, as `inputs` and `outputs` must have today."""
        value = self.take(key)
        if not isinstance(value, list) or len(value) != 1:
            raise self.refuse(key, value, "a list with one entry: a chain of layers has one input and one output")
        return Section(self._source, value[0], f"{self._path}{key}[0].")


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object, low: float, high: float) -> bool:
    # Not a number is in no range, so the comparison refuses it too.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
