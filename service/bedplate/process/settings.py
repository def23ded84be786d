"""Reads a settings file once into a frozen dataclass. A bad setting is refused with key, value and a remedy.

Each program has its own dataclass beside it (`web/settings.py`, `engine/settings.py`); a field's metadata describes
it: `field(default=64, metadata={"unit": "requests", "min": 1, "max": 4096})`, or for a text
`metadata={"choices": ["float32", "bfloat16"]}`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

T = TypeVar("T")
_MAX_FILE_BYTES = 1 << 20


class SettingsError(Exception):
    """A setting that cannot be used. The message names the file, the key, the value and a remedy."""


def load(cls: type[T], path: Path) -> T:
    """Read `path` into the dataclass `cls`.

    Supported field types: int, int | None, float, str, bool, Path, Path | None, tuple[Path, ...], tuple[str, ...].

    Raises:
        SettingsError: the file is unreadable, a key unknown or missing, a type wrong, or a value out of range.
    """
    raw = _read(path)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # cls is a dataclass
    hints = get_type_hints(cls)
    for key in raw:
        if key not in fields:
            raise SettingsError(f"{path}: unknown key '{key}'; known keys are {', '.join(sorted(fields))}")
    values = {}
    for name, field in fields.items():
        if name in raw:
            values[name] = _convert(path, field, hints[name], raw[name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{path}: key '{name}' is missing; add '{name}: ...'")
    return cls(**values)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({error}); give a readable YAML file") from None
    if len(text) > _MAX_FILE_BYTES:
        raise SettingsError(f"{path}: {len(text)} characters, {_MAX_FILE_BYTES} are allowed")
    try:
        raw = yaml.safe_load(text)
    # What YAML's own constructors raise on odd tags and dates is not all YAMLError.
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(f"{path}: is not YAML ({error})") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: holds a {type(raw).__name__}, wanted 'key: value' lines")
    return raw


def _convert(path: Path, field: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    def refuse(wanted: str) -> SettingsError:
        return SettingsError(f"{path}: {field.name}: {value!r} does not do, wanted {wanted}")

    if hint == int | None:
        hint = int
    if hint in (int, float):
        return _number(field, hint, value, refuse)
    if choices := field.metadata.get("choices"):
        if value not in choices:
            raise refuse(" or ".join(choices))
        return value
    if hint in (str, bool):
        if not isinstance(value, hint) or value == "":
            raise refuse("true or false" if hint is bool else "a text")
        return value
    if hint in (Path, Path | None):
        if not isinstance(value, str) or not value.startswith("/"):
            raise refuse("an absolute path")
        return Path(value)
    if hint in (tuple[Path, ...], tuple[str, ...]):
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            raise refuse("a list with at least one text")
        return tuple(Path(item) if hint == tuple[Path, ...] else item for item in value)
    raise TypeError(f"{field.name} has a type this loader does not know: {hint}")


def _number(field: dataclasses.Field[Any], hint: type[int] | type[float], value: Any, refuse: Any) -> int | float:
    low, high = field.metadata.get("min"), field.metadata.get("max")
    unit = field.metadata.get("unit", "")
    kinds: tuple[type, ...] = (int,) if hint is int else (int, float)
    whole = "a whole number" if hint is int else "a number"
    ok = isinstance(value, kinds) and not isinstance(value, bool)
    # NaN is neither above nor below anything, so it is asked whether the value lies inside.
    if not ok or (low is not None and not value >= low) or (high is not None and not value <= high):
        raise refuse(f"{whole} from {low} to {high} {unit}".rstrip())
    return hint(value)
