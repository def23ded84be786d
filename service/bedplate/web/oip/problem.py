"""Errors as the protocol has them: one text, which names value, limit and next step."""

from __future__ import annotations

import json

from bedplate.errors import ServiceError


def speaks(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def error_body(error: ServiceError) -> bytes:
    return json.dumps({"error": _text(error)}).encode()


def _text(error: ServiceError) -> str:
    parts = [error.detail]
    # Most details name both already.
    if error.value is not None and str(error.value) not in error.detail:
        parts.append(f"found {error.value}")
    if error.limit is not None and str(error.limit) not in error.detail:
        parts.append(f"limit {error.limit}")
    if error.next_step:
        parts.append(error.next_step)
    return "; ".join(parts)
