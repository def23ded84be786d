"""A bundle: one model as a directory (docs/adr/0002). Read by the engine; described to the web over the wire."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bedplate import wire
from bedplate.document import BundleError, Section, parse_yaml
from bedplate.manifest import FILE_NAME, read_file, verify_manifest, write_manifest

__all__ = ["Bundle", "BundleError", "describe", "read_bundle", "write_manifest"]

BUNDLE_FILE = "bundle.yaml"
MAX_CANARY_BYTES = 256 << 10
_MAX_BUNDLE_BYTES = 256 << 10
_MAX_ITEMS = 4096
_MAX_SIDE = 16384  # of a tensor's dimension and of a picture, in elements and pixels
_MAX_LAYERS = 1000
_MAX_LABELS = 100_000
_NAME = r"[a-z0-9][a-z0-9-]{0,63}"
_VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_SHA256 = r"[0-9a-f]{64}"
_FIELD_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"


@dataclass(frozen=True)
class Picture:
    """How a picture becomes a tensor: value = (pixel * scale - mean) / std, per channel."""

    mode: str  # L (grey) or RGB
    height: int  # pixels
    width: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return len(self.mode)


@dataclass(frozen=True)
class Tensor:
    """One input or output; `shape` is of one item, without the batch dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    image: Picture | None = None

    @property
    def item_bytes(self) -> int:
        return math.prod(self.shape) * 4  # float32, the only dtype yet


@dataclass(frozen=True)
class Layer:
    kind: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Validation:
    metric: str
    threshold: float
    measured: float


@dataclass(frozen=True)
class Canary:
    file: str
    label: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Bundle:
    name: str
    version: str
    task: str
    description: str
    input: Tensor
    output: Tensor
    labels: tuple[str, ...]
    activation: str  # softmax, sigmoid or none
    max_items: int
    weights: str
    network: tuple[Layer, ...]
    validation: Validation
    canary: Canary
    digest: str  # of SHA256SUMS: a bundle made anew under the same version has another, unless nothing changed
    document: Mapping[str, Any] = field(repr=False, compare=False)  # bundle.yaml as it was read

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Bundle:
        """The bundle an engine described; needs no file.

        Raises:
            BundleError: the description is not one that `describe` makes.
        """
        document = dict(description)
        try:
            content = base64.b64decode(document.pop("canary_bytes"), validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise BundleError("description: canary_bytes: is missing or not base64; wanted the canary") from None
        digest = document.pop("digest", None)
        if not isinstance(digest, str) or not re.fullmatch(_SHA256, digest):
            raise BundleError("description: digest: is missing or no sha256; wanted that of SHA256SUMS")
        return _parse(document, "description", lambda _: content, digest)


def read_bundle(directory: Path) -> Bundle:
    """Check SHA256SUMS, then read bundle.yaml and the canary.

    Raises:
        BundleError: with the file, the key, the value and what would do.
    """
    digest = verify_manifest(directory)
    source = str(directory / BUNDLE_FILE)
    document = parse_yaml(read_file(directory, BUNDLE_FILE, _MAX_BUNDLE_BYTES), source)
    bundle = _parse(document, source, lambda name: read_file(directory, name, MAX_CANARY_BYTES), digest)
    if not (directory / bundle.weights).is_file():
        raise BundleError(f"{source}: weights: {bundle.weights!r} does not do, wanted a file of the bundle")
    return bundle


def describe(bundle: Bundle) -> dict[str, Any]:
    """bundle.yaml as JSON, plus the canary's bytes and the content's digest: what the web needs and nothing more."""
    canary = base64.b64encode(bundle.canary.content).decode()
    return {**bundle.document, "canary_bytes": canary, "digest": bundle.digest}


def _parse(document: object, source: str, read_canary: Any, digest: str) -> Bundle:
    top = Section(source, document)
    top.integer("format", 1, 1)
    bundle = Bundle(
        name=top.text("name", _NAME),
        version=top.text("version", _VERSION),
        task=top.choice("task", ["image-classification"]),
        description=top.text("description"),
        input=_tensor(top.only_section("inputs"), with_image=True),
        output=_tensor(top.only_section("outputs"), with_image=False),
        labels=top.texts("labels", _MAX_LABELS),
        activation=top.choice("activation", ["softmax", "sigmoid", "none"]),
        max_items=_max_items(top.section("batch")),
        weights=_file_name(top, "weights"),
        network=_layers(top),
        validation=_validation(top.section("validation")),
        canary=_canary(top.section("canary"), read_canary),
        digest=digest,
        document=document if isinstance(document, dict) else {},
    )
    top.done()
    _check_agreement(bundle, top)
    return bundle


def _tensor(section: Section, with_image: bool) -> Tensor:
    tensor = Tensor(
        name=section.text("name", _FIELD_NAME),
        dtype=section.choice("dtype", ["float32"]),
        shape=section.integers("shape", 1, _MAX_SIDE),
        image=_picture(section.section("image")) if with_image else None,
    )
    section.done()
    picture = tensor.image
    if picture and tensor.shape != (picture.channels, picture.height, picture.width):
        raise section.refuse("shape", list(tensor.shape), "[channels, height, width] as 'image' has them")
    return tensor


def _picture(section: Section) -> Picture:
    mode = section.choice("mode", ["L", "RGB"])
    picture = Picture(
        mode=mode,
        height=section.integer("height", 1, _MAX_SIDE),
        width=section.integer("width", 1, _MAX_SIDE),
        scale=section.number("scale", 1e-9, 1e9),
        mean=section.numbers("mean", len(mode), -1e9, 1e9),
        std=section.numbers("std", len(mode), 1e-9, 1e9),
    )
    section.done()
    return picture


def _max_items(section: Section) -> int:
    max_items = section.integer("max_items", 1, _MAX_ITEMS)
    section.done()
    return max_items


def _file_name(section: Section, key: str) -> str:
    return section.text(key, FILE_NAME.pattern)


def _layers(top: Section) -> tuple[Layer, ...]:
    raw = top.take("network")
    if not isinstance(raw, list) or not 1 <= len(raw) <= _MAX_LAYERS:
        raise top.refuse("network", raw, f"a list of 1 to {_MAX_LAYERS} layers")
    return tuple(_layer(top, index, entry) for index, entry in enumerate(raw))


def _layer(top: Section, index: int, entry: object) -> Layer:
    if isinstance(entry, str):
        return Layer(entry, {})
    if isinstance(entry, dict) and len(entry) == 1:
        [(kind, options)] = entry.items()
        if isinstance(kind, str) and isinstance(options, dict) and all(map(_is_option, options.items())):
            return Layer(kind, options)
    raise top.refuse(f"network[{index}]", entry, "a layer's name, or one 'name: {option: value}'")


def _is_option(option: tuple[object, object]) -> bool:
    """Options are names and plain values; what they mean and how large they may be, `engine/network.py` knows."""
    name, value = option
    values = value if isinstance(value, list) else [value]
    return isinstance(name, str) and all(
        isinstance(item, (bool, int, str)) or (isinstance(item, float) and math.isfinite(item)) for item in values
    )


def _validation(section: Section) -> Validation:
    validation = Validation(
        metric=section.choice("metric", ["accuracy"]),
        threshold=section.number("threshold", 0, 1),
        measured=section.number("measured", 0, 1),
    )
    section.done()
    if validation.measured < validation.threshold:
        raise section.refuse("measured", validation.measured, f"at least the threshold, {validation.threshold}")
    return validation


def _canary(section: Section, read: Any) -> Canary:
    name = _file_name(section, "file")
    canary = Canary(file=name, label=section.text("label"), content=read(name))
    section.done()
    if not 1 <= len(canary.content) <= MAX_CANARY_BYTES:
        raise section.refuse("file", name, f"a file of 1 to {MAX_CANARY_BYTES} bytes")
    return canary


def _check_agreement(bundle: Bundle, top: Section) -> None:
    shape, labels = list(bundle.output.shape), len(bundle.labels)
    if shape != [labels]:
        raise top.refuse("outputs[0].shape", shape, f"[{labels}], one for each of 'labels'")
    if bundle.canary.label not in bundle.labels:
        raise top.refuse("canary.label", bundle.canary.label, "one of 'labels'")
    batch_bytes = bundle.max_items * bundle.input.item_bytes
    if batch_bytes > wire.MAX_TENSOR_BYTES:
        raise top.refuse("batch.max_items", bundle.max_items, f"a batch of at most {wire.MAX_TENSOR_BYTES} bytes")
