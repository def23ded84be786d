"""Which format a body is in, by its Content-Type. A file beside this one reads each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import falcon

from bedplate.bundle.bundle import Bundle
from bedplate.errors import UnsupportedMediaType
from bedplate.web.items import files, json_document, multipart, raw, rows
from bedplate.web.items.decoders import Decoders, Media
from bedplate.web.items.files import EncodedFiles, decode_files
from bedplate.web.items.limits import Items, Limits, check_count, limits_of
from bedplate.web.options import RequestOptions

# Body, parameters of its type, model and its limits → items that the model takes, or what a decoder has to read.
Read = Callable[[bytes, Mapping[str, str], Bundle, Limits], Items | EncodedFiles]


@dataclass(frozen=True)
class Format:
    read: Read
    parameter: str = ""  # of the type, that changes how a body is read


_FILE = Format(files.read, "charset")
FORMATS = {
    "image/*": _FILE,
    "audio/*": _FILE,
    "video/*": _FILE,
    "text/plain": _FILE,
    "multipart/form-data": Format(multipart.read, "boundary"),
    "application/octet-stream": Format(raw.read, "shape"),
    "application/json": Format(json_document.read),
    "text/csv": Format(rows.read),
}
TYPES = ", ".join(FORMATS)


async def parse_items(
    content_type: str,
    body: bytes,
    model: Bundle,
    limits: Limits,
    decoders: Decoders,
    options: RequestOptions,
) -> Media:
    """Turn `body` into items of the model's input; see `read_items`. Files go to a decoder.

    Returns: items that all have one shape; of tensors nothing is said about files.

    Raises:
        InvalidRequest: with value, limit and next step.
        DecoderBusy, DecoderUnavailable, DeadlineExceeded: of files.
    """
    found = read_items(content_type, body, model, limits)
    if isinstance(found, EncodedFiles):
        return await decode_files(found, model, limits_of(model, limits), decoders, options)
    return Media([found])


def read_items(content_type: str, body: bytes, model: Bundle, limits: Limits) -> Items | EncodedFiles:
    """Items (items, *shape) in the input's dtype, or the files that `body` holds.

    Raises:
        InvalidRequest: with value, limit and next step.
    """
    limits = limits_of(model, limits)
    if model.codec:
        return _for_codec(content_type, body, limits)
    found = _format_of(content_type)
    if found is None:
        raise UnsupportedMediaType(f"the Content-Type is not one this route takes: {TYPES}", limit=TYPES)
    return found.read(body, _parsed(content_type)[1], model, limits)


def _for_codec(content_type: str, body: bytes, limits: Limits) -> EncodedFiles:
    """Whatever comes: what it is, the model's own `decode` says."""
    kind, parameters = _parsed(content_type)
    is_form = kind == "multipart/form-data"
    found = multipart.parts_of(body, parameters, limits) if is_form else EncodedFiles([body], [content_type])
    check_count(len(found.contents), limits.items)
    return found


def holds_files(content_type: str, model: Bundle) -> bool:
    """Whether a decoder has to read a body of this type; of JSON it depends on the body where a model takes texts."""
    found = _format_of(content_type)
    return bool(model.codec) or (found is not None and found.read in (files.read, multipart.read))


@lru_cache(maxsize=256)
def how_it_is_read(content_type: str) -> str:
    """As much of the type as changes how a body is read: files are known by content."""
    kind, parameters = _parsed(content_type)
    found = _format_of(content_type)
    if found is None or not found.parameter:
        return kind
    value = parameters.get(found.parameter, "")
    return f"file;{value.lower()}" if found is _FILE else f"{kind};{value}"


@lru_cache(maxsize=256)
def _format_of(content_type: str) -> Format | None:
    kind, _ = _parsed(content_type)
    return FORMATS.get(kind) or FORMATS.get(f"{kind.partition('/')[0]}/*")


@lru_cache(maxsize=256)
def _parsed(content_type: str) -> tuple[str, Mapping[str, str]]:
    """Type, in lower case, and its parameters. Most requests of a process have one of a few."""
    kind, parameters = falcon.parse_header(content_type)
    return kind.lower(), parameters
