"""The list of checks that every request has to pass before it is processed, for the direct way and Falcon's routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from falcon.asgi import Request, Response

from bedplate.errors import ServiceError
from bedplate.web.http.exchange import CHECKED
from bedplate.web.options import Header


@dataclass(slots=True)
class IncomingRequest:
    """What a check sees of a request. Its body may not have arrived yet."""

    method: str
    path: str
    header: Header
    client: str | None = None  # whose key it carries; the check of the key says so


Check = Callable[[IncomingRequest], None]  # raises a ServiceError, which is the answer
Outcome = IncomingRequest | ServiceError


def outcome_of(checks: Sequence[Check], request: IncomingRequest) -> Outcome:
    """Return the request if it passes all of `checks`, or else the refusal of the first that it does not pass."""
    try:
        for check in checks:
            check(request)
    except ServiceError as error:
        return error
    return request


class PassChecks:
    """Falcon middleware that checks each request once, unless the direct way has done so.

    Args:
        on_refusal: called with what is refused, and why.
    """

    def __init__(self, checks: Sequence[Check], on_refusal: Callable[[Request, ServiceError], None]):
        self._checks = checks
        self._on_refusal = on_refusal

    async def process_request(self, req: Request, resp: Response) -> None:
        outcome: Outcome | None = req.scope.get(CHECKED)
        if outcome is None:
            outcome = outcome_of(self._checks, IncomingRequest(req.method, req.path, req.get_header))
        if isinstance(outcome, ServiceError):
            self._on_refusal(req, outcome)
            raise outcome
        req.context.client = outcome.client
