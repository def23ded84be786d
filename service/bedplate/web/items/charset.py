"""Texts are read as UTF-8 and as nothing else."""

from __future__ import annotations

from functools import lru_cache

import falcon

from bedplate.errors import UnsupportedMediaType

_UTF8 = ("", "utf-8", "utf8", "us-ascii")


@lru_cache(maxsize=256)
def is_read_as_text(content_type: str | None) -> bool:
    """Whether a body of this type is no text, or one in UTF-8. A charset of anything but a text says nothing."""
    if not content_type:
        return True
    kind, parameters = falcon.parse_header(content_type)
    is_text = kind.lower().startswith(("text/", "application/json"))
    return not is_text or parameters.get("charset", "").lower() in _UTF8


def check_text_type(content_type: str | None) -> None:
    """Raises: UnsupportedMediaType: a text in another charset than UTF-8."""
    if not is_read_as_text(content_type):
        raise UnsupportedMediaType(
            "the charset is not one that is read", limit="utf-8", next_step="send UTF-8, and say charset=utf-8"
        )
