"""The id under which a request is found in every log: nginx's, or one that is made here."""

from __future__ import annotations

import re
import secrets

from falcon.asgi import Request, Response

from bedplate.web.observer import observation

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class RequestId:
    """Falcon middleware: takes the id that came, and says it back."""

    async def process_request(self, req: Request, resp: Response) -> None:
        req.context.request_id = observation(req).request_id = request_id(req.get_header("X-Request-ID"))
        resp.set_header("X-Request-ID", req.context.request_id)


def request_id(given: str | None) -> str:
    """What came, if it is one; else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
