"""Serves openapi.yaml, the description of all routes, as JSON."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import yaml
from falcon.asgi import Request, Response


class Document:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = "application/json"
        resp.data = document()


@cache
def document() -> bytes:
    """Return the OpenAPI 3.1 document as JSON."""
    return json.dumps(yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_bytes())).encode()
