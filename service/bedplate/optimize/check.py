"""Checks a bundle: computes its canary and its validation set as the service computes them.

This is the only place where the front end's decoding and the engine's model meet in one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle, Validation, read_bundle
from bedplate.bundle.detection import BOX, Boxes, Detection, boxes_of, mean_average_precision
from bedplate.bundle.manifest import read_manifest
from bedplate.bundle.recommendation import MAX_NAME_BYTES, suggestions_in
from bedplate.bundle.strict_yaml import BundleError
from bedplate.bundle.tensor import Tensor, Text
from bedplate.bundle.tokenizer import tokenizer_of
from bedplate.decode.codec import Codec
from bedplate.decode.media import decode
from bedplate.decode.settings import DecodeSettings
from bedplate.decode.text import ids_of
from bedplate.engine.cuda import to_numpy
from bedplate.engine.faults import DeviceOutOfMemory
from bedplate.engine.model import Model
from bedplate.engine.tensors import read_tensors
from bedplate.engine.variant import ModelVariant
from bedplate.errors import ServiceError
from bedplate.web.items.decoders import Decoders, Media
from bedplate.web.items.formats import parse_items
from bedplate.web.items.limits import Limits
from bedplate.web.items.postprocess import scores_of
from bedplate.web.options import RequestOptions, within
from bedplate.web.predictor import predictions_for
from bedplate.web.settings import WebSettings

Array = np.ndarray[Any, Any]
INPUTS, EXPECTED = "inputs", "expected"
_DECODING_S = 60
_TRUTH = 2 + BOX  # numbers of an expected box


@dataclass(frozen=True)
class Measured:
    """The share of the validation set that the model gets right."""

    validation: Validation
    items: int
    share: float  # that is right; of boxes their mean average precision

    @property
    def suffices(self) -> bool:
        return self.share >= self.validation.threshold


def load(directory: Path, precision: str, allow_code: bool = False) -> tuple[Bundle, Model]:
    """Return the bundle as an engine reads it, and its model, warmed up.

    Args:
        allow_code: whether its programs may run here.

    Raises:
        BundleError: an engine would refuse it; the message says why.
    """
    bundle = read_bundle(directory)
    allowed = bundle.code_sums if allow_code else ()
    try:
        model = Model.load(bundle, directory, torch.device("cpu"), ModelVariant(precision), allowed)
        model.warm_up()
    except DeviceOutOfMemory as error:
        raise BundleError(f"{directory}: {error}; use a machine with more memory") from None
    return bundle, model


def canary_answer(bundle: Bundle, model: Model) -> str:
    """Return the model's answer to the canary; it equals `bundle.canary.wanted` if it is right.

    Raises:
        BundleError: the service would not accept the canary's request, or could not send the answer to a client.
    """
    canary = bundle.canary
    try:
        return canary.found_in(answer(bundle, model, canary.content_type, canary.content))
    except ServiceError as error:
        raise BundleError(
            f"{bundle.name} {bundle.version}: canary.file: {canary.file} gets no answer ({error})"
        ) from None


def answer(bundle: Bundle, model: Model, content_type: str, body: bytes) -> list[Any]:
    """Return the predictions that a client gets who sends `body`.

    Raises:
        ServiceError: the service would not accept the request.
    """
    limits, here, options = Limits(WebSettings.max_body_bytes, WebSettings.max_items), _Here(()), within(_DECODING_S)
    media = asyncio.run(parse_items(content_type, body, bundle, limits, here, options))
    for part in media.parts:
        model.require_known(part)
    outputs = np.concatenate([model.run(np.array(part)) for part in media.parts])
    numbers = dtypes.to_numbers(bundle.output.dtype, outputs)
    return asyncio.run(predictions_for(numbers, bundle, media, here, options))


def measure(bundle: Bundle, directory: Path, model: Model) -> Measured:
    """Compute the validation set.

    Raises:
        BundleError: there is none, or it does not fit the model.
    """
    inputs, expected = validation_set(bundle, directory)
    assert bundle.validation
    try:
        model.require_known(to_numpy(inputs))
    except ServiceError as error:
        raise BundleError(f"{directory / bundle.validation.file}: {error}") from None
    if bundle.detection:
        share = mean_average_precision(_found(bundle, bundle.detection, model, inputs), _truth(expected, len(inputs)))
    else:
        right = sum(int(_right(bundle, model, *batch).sum()) for batch in _batches(bundle, inputs, expected))
        share = right / len(inputs)
    return Measured(bundle.validation, len(inputs), share)


def validation_set(bundle: Bundle, directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs, in the form that the network takes, and the expected answers.

    Raises:
        BundleError: see `measure`.
    """
    validation = bundle.validation
    if validation is None:
        raise BundleError(
            f"{directory}/bundle.yaml: validation: is missing, so nothing says what the model is worth; "
            "add a validation set (docs/bundles.md)"
        )
    source = f"{directory / validation.file}"
    tensors = read_tensors(read_manifest(directory), validation.file)
    if tensors.keys() != {INPUTS, EXPECTED}:
        raise BundleError(f"{source}: holds {sorted(tensors)}, wanted the tensors '{INPUTS}' and '{EXPECTED}'")
    inputs, expected = tensors[INPUTS], tensors[EXPECTED]
    _check(bundle, source, inputs, expected)
    return inputs, expected


class _Here(Decoders):
    """Decodes in this process: what a bundle brings is no stranger's file."""

    async def decode(
        self, files: Sequence[bytes], model: Bundle, options: RequestOptions, types: Sequence[str] = ()
    ) -> Media:
        if model.codec:
            decoded = _codec(model).decode(files, types, model.input)
        else:
            tokenizer = tokenizer_of(model.tokenizer) if model.tokenizer else None
            decoded = decode(files, model.input, DecodeSettings(socket_dir=Path("/")), tokenizer)
        return Media(decoded.parts, decoded.files)

    async def encode(self, outputs: Array, items: Sequence[int], model: Bundle, options: RequestOptions) -> list[Any]:
        return _codec(model).encode(outputs, items)


def _codec(bundle: Bundle) -> Codec:
    return Codec(bundle.codec_source, bundle.code_sums, {"model": bundle.name})


def _check(bundle: Bundle, source: str, inputs: torch.Tensor, expected: torch.Tensor) -> None:
    items, *shape = inputs.shape or (0,)
    if bundle.input.text:
        if not items or len(shape) != 1 or inputs.dtype is not torch.uint8:
            raise _misfit(source, INPUTS, inputs, "uint8 [items, bytes], texts as UTF-8 and filled up with zeros")
    elif not items or not bundle.input.accepts(shape) or inputs.dtype is not getattr(torch, bundle.input.dtype):
        raise _misfit(source, INPUTS, inputs, f"{bundle.input.dtype} {bundle.input.shown}")
    if bundle.recommendation:
        if expected.shape != (items, MAX_NAME_BYTES) or expected.dtype is not torch.uint8:
            raise _misfit(source, EXPECTED, expected, f"uint8 [{items}, {MAX_NAME_BYTES}], names of items")
    elif bundle.detection:
        _check_boxes(bundle, source, expected, items)
    elif bundle.names_classes:
        # Classes by their place in 'labels'.
        if expected.shape != (items,) or expected.dtype is not torch.int64:
            raise _misfit(source, EXPECTED, expected, f"int64 [{items}], the place of each item's label in 'labels'")
        if not 0 <= int(expected.min()) <= int(expected.max()) < len(bundle.labels):
            raise BundleError(
                f"{source}: '{EXPECTED}' holds what is none of {len(bundle.labels)} labels, counted from 0"
            )
    elif expected.shape != (items, *_fixed(bundle.output)) or expected.dtype is not getattr(torch, bundle.output.dtype):
        raise _misfit(source, EXPECTED, expected, f"{bundle.output.dtype} {bundle.output.shown} of {items} items")


def _check_boxes(bundle: Bundle, source: str, expected: torch.Tensor, items: int) -> None:
    if expected.dim() != 2 or expected.shape[1] != _TRUTH or expected.dtype is not torch.float32 or not len(expected):
        raise _misfit(source, EXPECTED, expected, f"float32 [boxes, {_TRUTH}]: item, label, left, top, right, bottom")
    item, label, corners = expected[:, 0], expected[:, 1], expected[:, 2:]
    for name, places, count in (("items", item, items), ("labels", label, len(bundle.labels))):
        if not ((places == places.round()) & (places >= 0) & (places < count)).all():
            raise BundleError(f"{source}: '{EXPECTED}' names what is none of {count} {name}, counted from 0")
    if not ((corners >= 0) & (corners <= 1)).all() or not (corners[:, 2:] > corners[:, :2]).all():
        raise BundleError(f"{source}: '{EXPECTED}' has corners that are no shares of the picture, 0 to 1")


def _truth(expected: torch.Tensor, items: int) -> list[Boxes]:
    """Of each item the boxes that it has, from (boxes, 6): item, label, corners."""
    rows = expected.numpy()
    of_items = [rows[rows[:, 0] == item] for item in range(items)]
    return [Boxes(one[:, 2:], one[:, 1].astype(int), np.ones(len(one))) for one in of_items]


def _found(bundle: Bundle, detection: Detection, model: Model, inputs: torch.Tensor) -> list[Boxes]:
    found = []
    for items, _ in _batches(bundle, inputs, inputs):
        outputs = dtypes.to_numbers(bundle.output.dtype, model.run(items))
        found += [boxes_of(one[:, :BOX], scores_of(one[:, BOX:], bundle), detection) for one in outputs]
    return found


def _fixed(spec: Tensor) -> tuple[int, ...]:
    return spec.smallest  # an output's shape does not vary


def _misfit(source: str, name: str, found: torch.Tensor, wanted: str) -> BundleError:
    shown = f"{str(found.dtype).removeprefix('torch.')} {list(found.shape)}"
    return BundleError(f"{source}: '{name}' is {shown}, wanted {wanted}")


def _batches(bundle: Bundle, inputs: torch.Tensor, expected: torch.Tensor) -> Iterator[tuple[Array, Array]]:
    held, wanted = to_numpy(inputs), to_numpy(expected)
    if bundle.input.text:
        # One by one: their lengths differ.
        for row, place in zip(held, wanted, strict=True):
            yield _ids(bundle, bundle.input.text, bytes(row).rstrip(b"\0")), place[np.newaxis]
        return
    items = bundle.input.most_items(inputs.shape[1:], bundle.max_items, bundle.max_cost)
    for start in range(0, len(held), items):
        yield held[start : start + items], wanted[start : start + items]


def _ids(bundle: Bundle, spec: Text, text: bytes) -> Array:
    try:
        return ids_of(text, bundle.input, spec, tokenizer_of(bundle.tokenizer))
    except ServiceError as error:
        raise BundleError(f"{bundle.name} {bundle.version}: validation: {text!r:.80}: {error}") from None


def _right(bundle: Bundle, model: Model, inputs: Array, expected: Array) -> Array:
    """Of each item whether it is, (items,) bool."""
    outputs = dtypes.to_numbers(bundle.output.dtype, model.run(inputs))
    if bundle.recommendation:
        suggested = suggestions_in(outputs)["item"]  # (items, max_k)
        return np.asarray((suggested == expected.view(suggested.dtype)).any(axis=1))
    if bundle.names_classes:
        return np.asarray(outputs.argmax(axis=1) == expected)
    wanted = dtypes.to_numbers(bundle.output.dtype, expected)
    if not bundle.output.is_floating:
        near = outputs == wanted
    else:
        near = np.isclose(
            outputs.astype(np.float64),
            wanted.astype(np.float64),
            rtol=0,
            atol=bundle.canary.tolerance,
            # Where the bundle allows it; else no client would get it.
            equal_nan=True,
        ) & (np.isfinite(outputs) | bundle.output.allows_non_finite)
    return np.asarray(near.reshape(len(inputs), -1).all(axis=1))
