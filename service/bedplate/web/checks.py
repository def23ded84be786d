"""What every request has to pass before anybody works on it: one list, for the direct way and Falcon's routes alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from falcon.asgi import Request, Response

from bedplate.errors import ServiceError
from bedplate.web.http.exchange import CHECKED
from bedplate.web.options import Header


@dataclass(slots=True)
class IncomingRequest:
    """What a check sees of a request. Its body may not have come yet."""

    method: str
    path: str
    header: Header
    client: str | None = None  # whose key it carries; the check of the key says so


Check = Callable[[IncomingRequest], None]  # raises a ServiceError, which is the answer
Outcome = IncomingRequest | ServiceError


def outcome_of(checks: Sequence[Check], request: IncomingRequest) -> Outcome:
    """The request that has passed all of `checks`, or what the first that it did not pass says."""
    try:
        for check in checks:
            check(request)
    except ServiceError as error:
        return error
    return request


class PassChecks:
    """Falcon middleware: each request is checked once, here unless the direct way did it.

    Args:
        on_refusal: told of what is refused, and why.
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
