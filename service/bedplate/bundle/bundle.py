"""A bundle is one version of a model as a directory (docs/bundles.md). Engines read it and describe it to webs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bedplate import wire
from bedplate.bundle import user_code as code
from bedplate.bundle.canary import (
    BOXES,
    ITEM,
    LABEL,
    MAX_CANARY_BYTES,
    NUMBERS,
    OWN,
    Canary,
    ReadFile,
    read_boxes,
    read_canary,
)
from bedplate.bundle.detection import BOX, Detection, read_detection
from bedplate.bundle.manifest import FILE_NAME, Manifest, verify_manifest, write_manifest
from bedplate.bundle.onnx import MAX_BYTES as MAX_ONNX_BYTES
from bedplate.bundle.onnx import OnnxGraph, read_onnx
from bedplate.bundle.program import MAX_BYTES as MAX_PROGRAM_BYTES
from bedplate.bundle.program import Program, read_program
from bedplate.bundle.recommendation import Recommendation, read_recommendation
from bedplate.bundle.strict_yaml import BundleError, Section, parse_yaml
from bedplate.bundle.tensor import Tensor, read_input, read_output

__all__ = ["MAX_CANARY_BYTES", "Bundle", "BundleError", "Canary", "describe", "read_bundle", "write_manifest"]

BUNDLE_FILE = "bundle.yaml"
_MAX_BUNDLE_BYTES = 256 << 10
_MOST_INLINE_BYTES = 256 << 10  # of a file within a description
_MAX_ITEMS = 4096
_MAX_COST = 1 << 53  # the largest that JSON keeps exactly
_MAX_LAYERS = 1000
_MAX_LABELS = 100_000
NAME = r"[a-z0-9][a-z0-9-]{0,63}"
_VERSION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_SHA256 = r"[0-9a-f]{64}"
_TENSORS = "tensors"  # the task that says nothing of what the numbers mean
_OBJECTS = "object-detection"
_CUSTOM = "custom"  # the task whose codec says it
# How an input says that files, or rows of a table, become it, by the task that takes such.
_MEDIA = {
    "image-classification": "image",
    _OBJECTS: "image",
    "audio-classification": "audio",
    "video-classification": "video",
    "text-classification": "text",
    "tabular-classification": "columns",
    "tabular-regression": "columns",
}
_MEDIA_OF_TENSORS = ("image", "audio", "text")  # one of them, or none: numbers in
MAX_TOKENIZER_BYTES = 64 << 20  # XLM-R's and Qwen's, of a quarter of a million pieces, have up to 17 MB
_RECOMMENDATION = "recommendation"  # names in and names out
# What an answer is; of all others a label.
_ANSWERS = {_TENSORS: NUMBERS, "tabular-regression": NUMBERS, _RECOMMENDATION: ITEM, _OBJECTS: BOXES, _CUSTOM: OWN}
_METRICS = {LABEL: "accuracy", NUMBERS: "agreement", ITEM: "hit-rate", BOXES: "map50", OWN: "agreement"}
_MAX_TTL_S = 30 * 86_400
_MAX_BODY_BYTES = 1 << 30


@dataclass(frozen=True)
class Layer:
    kind: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Validation:
    """A set of items with known answers, and the share of them that the model has to get right."""

    file: str
    metric: str
    threshold: float  # share of the items


@dataclass(frozen=True)
class Bundle:
    name: str
    version: str
    task: str
    description: str
    input: Tensor
    output: Tensor
    labels: tuple[str, ...]  # of the task tensors maybe none
    activation: str  # softmax, sigmoid or none
    max_items: int
    max_cost: int  # of all items of a batch, in what Tensor.cost_of counts
    weights: str  # of a model that is ONNX: none, its file has them
    network: tuple[Layer, ...]  # of a model that is a program, ONNX or code: none
    program: str  # the file with the network as operations; of any other: none
    onnx: str  # the .onnx file; of any other: none
    code: str  # the file with load and predict; of a network: none
    codec: str  # the file with decode and encode; of the task custom alone
    codec_source: bytes = field(repr=False, compare=False)
    validation: Validation | None
    canary: Canary
    recommendation: Recommendation | None  # in place of a network
    cache_ttl_s: int | None  # how long an answer may be kept, where that is shorter than the operator's time
    max_body_bytes: int | None  # of a request, where that is less than the operator's limit
    digest: str  # of SHA256SUMS: a bundle made anew under the same version has another, unless nothing changed
    document: Mapping[str, Any] = field(repr=False, compare=False)  # bundle.yaml as it was read
    detection: Detection | None = None  # how an answer becomes boxes; None: it becomes none
    tokenizer: bytes = field(default=b"", repr=False, compare=False)  # its file, of a model that takes text
    # What `program` and `onnx` hold; None in a web.
    operations: Program | None = field(default=None, repr=False, compare=False)
    graph: OnnxGraph | None = field(default=None, repr=False, compare=False)
    code_sums: tuple[str, ...] = field(default=(), compare=False)  # as SHA256SUMS has them; of `code_files`
    signer: str = field(default="", compare=False)  # whose signature was verified, where one was asked for

    @property
    def names_classes(self) -> bool:
        """Whether a prediction is a label with scores; if not, it is the model's output itself."""
        return _answer(self.task) == LABEL

    @cached_property
    def tokenizer_sha256(self) -> str:
        """By which a decoder knows the tokenizer that it has read."""
        return sha256_of(self.tokenizer)

    @property
    def loaded_files(self) -> dict[str, str]:
        """The files that an engine reads to serve the bundle, by the key that names each."""
        numbers = {"onnx": self.onnx} if self.onnx else {"weights": self.weights}
        return numbers | (self.recommendation.files if self.recommendation else {})

    @property
    def code_files(self) -> tuple[str, ...]:
        """The files with code that has to run for this bundle to be served."""
        return tuple(filter(None, (self.code, self.codec)))

    @classmethod
    def from_description(cls, description: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> Bundle:
        """Build the bundle that an engine described, without reading a file.

        Args:
            files: the files that the engine sent beside its descriptions, by sha256.

        Raises:
            BundleError: `describe` did not make this description.
        """
        document, known = dict(description), files or {}
        asked = _sent(document, "canary", known)
        # Only of a canary whose answer is a file, and of a bundle with a codec.
        expected = _sent(document, "expect", known, b"")
        codec_source = _sent(document, "codec", known, b"")
        canary, codec = document.get("canary"), document.get("codec")
        expect = canary.get("expect") if isinstance(canary, dict) else None
        tokenizer = document.pop("tokenizer_sha256", None)

        def read(name: str) -> bytes:
            return codec_source if name == codec else expected if name == expect else asked

        digest = document.pop("digest", None)
        if not isinstance(digest, str) or not re.fullmatch(_SHA256, digest):
            raise BundleError("description: digest: is missing or no sha256; wanted that of SHA256SUMS")
        bundle = _parse(document, "description", read, digest)
        if bundle.input.text is None:
            return bundle
        content = known.get(str(tokenizer))
        if content is None:
            raise BundleError("description: tokenizer_sha256: is missing or of no file; wanted that of the tokenizer")
        return replace(bundle, tokenizer=content)


def read_bundle(directory: Path, signers: Path | None = None) -> Bundle:
    """Verify the signature, compare every file with SHA256SUMS, then read bundle.yaml and the canary.

    Args:
        signers: who may sign, as OpenSSH's allowed_signers; None: no signature is required.

    Raises:
        BundleError: the message names the file, the key, the value and a remedy.
    """
    manifest = verify_manifest(directory, signers)
    source = str(directory / BUNDLE_FILE)
    document = parse_yaml(manifest.read(BUNDLE_FILE, _MAX_BUNDLE_BYTES), source)
    bundle = _parse(document, source, lambda name: manifest.read(name, MAX_CANARY_BYTES), manifest.digest)
    named = bundle.loaded_files | ({"validation.file": bundle.validation.file} if bundle.validation else {})
    named |= {"inputs[0].text.tokenizer": bundle.input.text.tokenizer} if bundle.input.text else {}
    for key, name in named.items():
        if name not in manifest.sums:
            raise BundleError(f"{source}: {key}: {name!r} does not do, wanted a file of the bundle")
    for name, functions in ((bundle.code, code.MODEL), (bundle.codec, code.CODEC)):
        if name:
            code.require_functions(manifest.read(name, code.MAX_BYTES), functions, directory / name)
    sums = tuple(manifest.sums[name] for name in bundle.code_files)
    text = bundle.input.text
    tokenizer = manifest.read(text.tokenizer, MAX_TOKENIZER_BYTES) if text else b""
    program = _program(bundle, manifest, directory) if bundle.program else None
    graph = _graph(bundle, manifest, directory) if bundle.onnx else None
    return replace(bundle, tokenizer=tokenizer, operations=program, graph=graph, code_sums=sums, signer=manifest.signer)


def _program(bundle: Bundle, manifest: Manifest, directory: Path) -> Program:
    program = read_program(manifest.read(bundle.program, MAX_PROGRAM_BYTES), str(directory / bundle.program))
    program.check_input(bundle.input.dtype, str(directory / BUNDLE_FILE))
    return program


def _graph(bundle: Bundle, manifest: Manifest, directory: Path) -> OnnxGraph:
    graph = read_onnx(manifest.read(bundle.onnx, MAX_ONNX_BYTES), str(directory / bundle.onnx))
    graph.check(bundle.input, bundle.output, bundle.max_items, str(directory / BUNDLE_FILE))
    return graph


def describe(bundle: Bundle) -> dict[str, Any]:
    """Return bundle.yaml as JSON with the canary's bytes and the content's digest: all that a web needs.

    A file that is larger than metadata may be is named by its sum and travels beside: `files_beside` returns it.
    """
    sent = {key: _as_sent(key, content) for key, content in _small_or_large(bundle).items()}
    tokenizer = {"tokenizer_sha256": bundle.tokenizer_sha256} if bundle.input.text else {}
    return {**bundle.document, **dict(sent.values()), **tokenizer, "digest": bundle.digest}


def files_beside(bundle: Bundle) -> dict[str, bytes]:
    """Return the files that `describe` only names, by sha256."""
    large = [content for content in _small_or_large(bundle).values() if len(content) > _MOST_INLINE_BYTES]
    return {sha256_of(content): content for content in (*large, bundle.tokenizer) if content}


def _small_or_large(bundle: Bundle) -> dict[str, bytes]:
    canary = bundle.canary
    expected = {"expect": canary.expect_content} if canary.expect else {}
    return {"canary": canary.content} | expected | ({"codec": bundle.codec_source} if bundle.codec else {})


def _as_sent(key: str, content: bytes) -> tuple[str, str]:
    if len(content) > _MOST_INLINE_BYTES:
        return f"{key}_sha256", sha256_of(content)
    return f"{key}_bytes", base64.b64encode(content).decode()


def _sent(document: dict[str, Any], key: str, files: Mapping[str, bytes], default: bytes | None = None) -> bytes:
    """The reverse of `_as_sent`; takes the key out of the document."""
    sha256, text = document.pop(f"{key}_sha256", None), document.pop(f"{key}_bytes", None)
    if sha256 is not None:
        if content := files.get(str(sha256)):
            return content
        raise BundleError(f"description: {key}_sha256: is of no file; wanted that of the canary")
    if text is None and default is not None:
        return default
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise BundleError(f"description: {key}_bytes: is missing or not base64; wanted the canary") from None


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parse(document: object, source: str, read: ReadFile, digest: str) -> Bundle:
    top = Section(source, document)
    top.integer("format", 1, 1)
    name, version = top.text("name", NAME), top.text("version", _VERSION)
    task = top.choice("task", [*_MEDIA, "classification", _RECOMMENDATION, _TENSORS, _CUSTOM])
    answer = _answer(task)
    has_labels = answer in (LABEL, BOXES)
    recommendation = read_recommendation(top.section("recommendation")) if task == _RECOMMENDATION else None
    if recommendation:
        taken, given = recommendation.input, recommendation.output
    else:
        inputs = top.only_section("inputs")
        taken = read_input(inputs, _media(task, inputs))
        given = read_output(top.only_section("outputs"))
    program = _file_name(top, "program") if not recommendation and top.has("program") else ""
    onnx = _file_name(top, "onnx") if not recommendation and not program and top.has("onnx") else ""
    is_data = recommendation or program or onnx
    model_code = top.text("code", code.FILE_NAME) if not is_data and top.has("code") else ""
    codec = top.text("codec", code.FILE_NAME) if task == _CUSTOM else ""
    max_items, max_cost = _batch(top.section("batch"), taken)
    bundle = Bundle(
        name=name,
        version=version,
        task=task,
        description=top.text("description"),
        input=taken,
        output=given,
        labels=top.texts("labels", _MAX_LABELS) if has_labels or (answer == NUMBERS and top.has("labels")) else (),
        activation=top.choice("activation", ["softmax", "sigmoid", "none"]) if has_labels else "none",
        max_items=max_items,
        max_cost=max_cost,
        weights="" if onnx else _file_name(top, "weights"),
        network=() if is_data or model_code else _layers(top),
        program=program,
        onnx=onnx,
        code=model_code,
        codec=codec,
        codec_source=read(codec) if codec else b"",
        validation=_validation(top, answer) if top.has("validation") else None,
        canary=read_canary(top.section("canary"), given, answer, read),
        detection=read_detection(top.section("detection")) if answer == BOXES else None,
        recommendation=recommendation,
        cache_ttl_s=_one_of(top, "cache", "ttl_s", 0, _MAX_TTL_S),
        max_body_bytes=_one_of(top, "request", "max_bytes", 1, _MAX_BODY_BYTES),
        digest=digest,
        document=document if isinstance(document, dict) else {},
    )
    top.done()
    _check_agreement(bundle, top)
    return bundle


def _media(task: str, inputs: Section) -> str | None:
    """The key that says how files, or rows of a table, become the input; None where only numbers do."""
    return next(filter(inputs.has, _MEDIA_OF_TENSORS), None) if task == _TENSORS else _MEDIA.get(task)


def _answer(task: str) -> str:
    return _ANSWERS.get(task, LABEL)


def _one_of(top: Section, name: str, key: str, low: int, high: int) -> int | None:
    """The only key of a section that may be left out."""
    if not top.has(name):
        return None
    section = top.section(name)
    value = section.integer(key, low, high)
    section.done()
    return value


def _batch(section: Section, taken: Tensor) -> tuple[int, int]:
    max_items = section.integer("max_items", 1, _MAX_ITEMS)
    least = taken.cost_of(taken.largest)
    most = max_items * least
    max_cost = section.integer("max_cost", 1, _MAX_COST) if section.has("max_cost") else most
    section.done()
    if not least <= max_cost <= most:
        raise section.disagree("max_cost", max_cost, f"a whole number from {least} to {most}")
    return max_items, max_cost


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


def _validation(top: Section, answer: str) -> Validation:
    section = top.section("validation")
    validation = Validation(
        file=_file_name(section, "file"),
        metric=section.choice("metric", [_METRICS[answer]]),
        threshold=section.number("threshold", 0, 1),
    )
    section.done()
    return validation


def _check_agreement(bundle: Bundle, top: Section) -> None:
    """What one key has to do with another: bundle.schema.json knows nothing of it."""
    shape, labels = list(bundle.output.shape), len(bundle.labels)
    if bundle.output.allows_non_finite and _answer(bundle.task) != NUMBERS:
        tasks = " or ".join(task for task, answer in _ANSWERS.items() if answer == NUMBERS)
        wanted = f"refuse, or the task {tasks}: any other makes something of its numbers"
        raise top.disagree("outputs[0].non_finite", "allow", wanted)
    if bundle.input.sound and not bundle.names_classes and not bundle.output.is_floating:
        wanted = "a floating dtype: a recording is answered with the mean of its windows"
        raise top.disagree("outputs[0].dtype", bundle.output.dtype, wanted)
    if bundle.input.sound and bundle.output.allows_non_finite:
        raise top.disagree("outputs[0].non_finite", "allow", "refuse: of infinite numbers windows have no mean")
    if bundle.detection:
        if len(shape) != 2 or shape[1] != BOX + labels or not bundle.output.is_floating:
            wanted = f"[candidates, {BOX + labels}] floating numbers: a box and one for each of 'labels'"
            raise top.disagree("outputs[0].shape", shape, wanted)
        if bundle.input.image and bundle.input.image.resize:
            raise top.disagree("inputs[0].image.resize", "", "none: boxes are stretched back to the whole picture")
        if unknown := {label for label, _ in read_boxes(bundle.canary.expect_content)} - set(bundle.labels):
            raise top.disagree("canary.expect", sorted(unknown), "boxes whose labels are of 'labels'")
    elif labels and shape != [labels]:
        raise top.disagree("outputs[0].shape", shape, f"[{labels}], one for each of 'labels'")
    if bundle.names_classes and bundle.canary.label not in bundle.labels:
        raise top.disagree("canary.label", bundle.canary.label, "one of 'labels'")
    if bundle.input.batch_bytes_of(bundle.max_cost) > wire.MAX_TENSOR_BYTES:
        wanted = f"a batch of at most {wire.MAX_TENSOR_BYTES} bytes; lower it, or max_cost"
        raise top.disagree("batch.max_items", bundle.max_items, wanted)
    if bundle.max_items * bundle.output.item_bytes_of(bundle.output.largest) > wire.MAX_TENSOR_BYTES:
        wanted = f"answers of at most {wire.MAX_TENSOR_BYTES} bytes; lower it"
        raise top.disagree("batch.max_items", bundle.max_items, wanted)
    if not bundle.codec and (bundle.canary.content_type == "application/json") == bundle.input.takes_files:
        wanted = (
            "a file of the kind that the model takes"
            if bundle.input.takes_files
            else 'a JSON document {"inputs": [...]}, its name ending in .json'
        )
        raise top.disagree("canary.file", bundle.canary.file, wanted)
