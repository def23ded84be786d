"""The id under which all logs have a request: nginx's, or a new one."""

from __future__ import annotations

import itertools
import re
import secrets

from falcon.asgi import Request, Response

from bedplate.web import current
from bedplate.web.observer import observation

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class RequestIds:
    """Makes ids. It reads the kernel's randomness once per process instead of once per request."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def of(self, given: str | None) -> str:
        """Return the id that came if it is valid, else a new one."""
        return given if given and _REQUEST_ID.fullmatch(given) else f"{self._process}{next(self._numbers):016x}"


class RequestId:
    """Falcon middleware: takes the request's id or makes one, and returns it in the answer."""

    def __init__(self, ids: RequestIds):
        self._ids = ids

    async def process_request(self, req: Request, resp: Response) -> None:
        req.context.request_id = observation(req).request_id = self._ids.of(req.get_header("X-Request-ID"))
        current.REQUEST_ID.set(req.context.request_id)
        resp.set_header("X-Request-ID", req.context.request_id)
