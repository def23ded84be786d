"""Forms: several files in one body."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from falcon.media.multipart import MultipartForm, MultipartParseError, MultipartParseOptions

from bedplate.bundle.bundle import Bundle
from bedplate.errors import EmptyBody, MalformedMultipart, UnknownField, UnsupportedMediaType
from bedplate.web.items.charset import check_text_type
from bedplate.web.items.files import EncodedFiles, checked
from bedplate.web.items.limits import Limits, check_count

_CODED_PART = re.compile(
    rb"^content-(?:transfer-)?encoding[ \t]*:[ \t]*(?!(?:identity|binary)?[ \t]*\r\n)", re.IGNORECASE | re.MULTILINE
)


def read(body: bytes, parameters: Mapping[str, str], model: Bundle, limits: Limits) -> EncodedFiles:
    return checked(parts_of(body, parameters, limits), model, limits)


def parts_of(body: bytes, type_parameters: Mapping[str, str], limits: Limits) -> EncodedFiles:
    """The files of a form.

    Raises:
        InvalidRequest: it is no form, or holds something else.
    """
    boundary = type_parameters.get("boundary", "")
    parameters = MultipartParseOptions()
    parameters.max_body_part_buffer_size = limits.body_bytes
    # One more than allowed, so that the refusal can be ours, with value and limit.
    parameters.max_body_part_count = limits.items + 1
    files: list[bytes] = []
    types: list[str] = []
    _check_parts_codings(body, boundary.encode())
    try:
        for part in MultipartForm(io.BytesIO(body), boundary.encode(), len(body), parameters):
            if part.name != "file":
                raise UnknownField("a part of the form is not called 'file'", limit="file", next_step="rename the part")
            check_text_type(part.content_type)
            files.append(part.get_data())
            types.append(part.content_type or "")
    except MultipartParseError as error:
        if len(files) > limits.items:
            check_count(len(files), limits.items)
        raise MalformedMultipart(f"the form cannot be parsed: {error.description}") from None
    except UnicodeDecodeError:
        raise MalformedMultipart("the form's headers are not UTF-8") from None
    if not files or not all(files):
        raise EmptyBody("the form has no file, or an empty one", value=0, next_step="add parts called 'file'")
    return EncodedFiles(files, types)


def _check_parts_codings(body: bytes, boundary: bytes) -> None:
    """Falcon drops what it does not know of a part's fields, and these would change what the part is.

    Raises:
        UnsupportedMediaType: a part is encoded by itself. The whole body may be.
    """
    for head in re.finditer(re.escape(b"--" + boundary) + rb"[ \t]*\r\n(.{0,8192}?\r\n)\r\n", body, re.DOTALL):
        if _CODED_PART.search(head[1]):
            raise UnsupportedMediaType(
                "a part of the form is encoded by itself",
                limit="identity, binary",
                next_step="send the part as it is, without Content-Encoding; the whole body may be compressed",
            )
