"""Encoded files: pictures, recordings, videos, texts. What a file is, its content says; decoders read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bedplate.bundle.bundle import Bundle
from bedplate.errors import UnsupportedMediaType
from bedplate.web.items.decoders import Decoders, Media
from bedplate.web.items.limits import Limits, check_count, check_items
from bedplate.web.options import RequestOptions


@dataclass(frozen=True)
class EncodedFiles:
    """What a decoder has to make items of.

    Attributes:
        types: of each its Content-Type, where that is known.
    """

    contents: Sequence[bytes]
    types: Sequence[str] = ()


def read(body: bytes, parameters: Mapping[str, str], model: Bundle, limits: Limits) -> EncodedFiles:
    return checked(EncodedFiles([body]), model, limits)


def checked(files: EncodedFiles, model: Bundle, limits: Limits) -> EncodedFiles:
    """`files`, if the model takes files, and so many.

    Raises:
        UnsupportedMediaType, TooManyItems.
    """
    if not model.input.takes_files:
        raise UnsupportedMediaType("this model does not take files", next_step="send a tensor or JSON")
    check_count(len(files.contents), limits.items)
    return files


async def decode_files(
    files: EncodedFiles, model: Bundle, limits: Limits, decoders: Decoders, options: RequestOptions
) -> Media:
    """Their items, by a decoder: by the model's own program where the bundle brings one.

    Raises:
        InvalidRequest: with value, limit and next step.
        DecoderBusy, DecoderUnavailable, DeadlineExceeded.
    """
    if not model.codec:
        return await decoders.decode(files.contents, model, options)
    media = await decoders.decode(files.contents, model, options, files.types)
    check_count(sum(map(len, media.parts)), limits.items)
    for part in media.parts:
        check_items(part, model, limits)
    return media
