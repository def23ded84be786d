"""API keys: the list of clients, the check of a request's key, and the log of refusals. Only hashes are stored."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from falcon.asgi import Request

from bedplate.errors import MissingCredential, ServiceError, WrongCredential
from bedplate.process.settings import SettingsError
from bedplate.web.checks import IncomingRequest
from bedplate.web.observer import Allowance
from bedplate.web.options import Header

PUBLIC_PATHS = frozenset({"/ping", "/health", "/health/live", "/health/ready"})
_NEXT_STEP = "send 'Authorization: Bearer <key>'; the operator has the key"
_SUMMARY_S = 1.0  # between two lines that say how many refusals were not told
_KINDS: dict[type, str] = {MissingCredential: "missing", WrongCredential: "wrong"}
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_security = logging.getLogger("bedplate.security")


class ApiKeys:
    """The clients by the sha256 of their keys. Keys have 256 random bits, so a fast hash is enough."""

    def __init__(self, clients_by_sha256: dict[str, str]):
        self._clients_by_sha256 = clients_by_sha256
        # By the keys that were found: no more than there are. Else a hash were made for each request.
        self._known: dict[str, str] = {}

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Read a JSON list of `{"client": name, "sha256": 64 hex digits}`.

        Raises:
            SettingsError: the file is unreadable, has another form, or is empty.
        """
        try:
            entries = json.loads(path.read_text())
            keys = {str(entry["sha256"]).lower(): str(entry["client"]) for entry in entries}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SettingsError(f"{path}: no list of API keys ({type(error).__name__}); write it again") from None
        if not keys or not all(_SHA256.fullmatch(digest) for digest in keys):
            raise SettingsError(f"{path}: {len(keys)} keys, wanted at least one, each a sha256 of 64 hex digits")
        return cls(keys)

    def client_of(self, key: str) -> str | None:
        """Return the client that owns `key`. It compares every stored hash, so timing does not reveal a near match."""
        client = self._known.get(key)
        if client is None and (client := self._found(key)) is not None:
            self._known[key] = client
        return client

    def _found(self, key: str) -> str | None:
        digest = hashlib.sha256(key.encode()).hexdigest()
        found = None
        for known, client in self._clients_by_sha256.items():
            if hmac.compare_digest(known, digest):
                found = client
        return found


def require_key(keys: ApiKeys) -> Callable[[IncomingRequest], None]:
    """Return the check that every route but PUBLIC_PATHS, unknown routes included, requires one of `keys`."""

    def check(request: IncomingRequest) -> None:
        if request.path in PUBLIC_PATHS:
            return
        key = presented(request.header)
        if key is None:
            raise MissingCredential("this route needs an API key", next_step=_NEXT_STEP)
        request.client = keys.client_of(key)
        if request.client is None:
            raise WrongCredential("the API key is not known here", next_step=_NEXT_STEP)

    return check


class RefusalLog:
    """Logs refused credentials to the security stream.

    Args:
        lines_per_s: at most so many lines; one more line says how many refusals had none.
        on_untold: called for each refusal without a line, with whether the key was missing or wrong.
    """

    def __init__(self, lines_per_s: int, on_untold: Callable[[str], None] = lambda kind: None):
        self._allowance = Allowance(lines_per_s)
        self._on_untold = on_untold
        self._summary: asyncio.TimerHandle | None = None  # to come, of what is not told

    def __call__(self, req: Request, error: ServiceError) -> None:
        kind = _KINDS.get(type(error))
        if kind is not None:
            self._tell(req, kind)

    def _tell(self, req: Request, kind: str) -> None:
        if self._allowance.take(int(time.monotonic())):
            fields: dict[str, Any] = {
                "request_id": req.context.request_id,
                "path": req.path[:200],
                "from": _origin(req),
            }
            _security.warning("%s credential", kind, extra=fields)
            return
        self._on_untold(kind)
        if self._summary is None:
            self._summary = asyncio.get_running_loop().call_later(_SUMMARY_S, self._summarise)

    def _summarise(self) -> None:
        self._summary = None
        _security.warning("more refused credentials", extra={"untold": self._allowance.untold()})


def presented(header: Header) -> str | None:
    """Return the key in Authorization, or else in X-API-Key."""
    scheme, _, value = (header("Authorization") or "").partition(" ")
    if scheme.lower() == "bearer" and (value := value.strip()):
        return value
    return header("X-API-Key")


def _origin(req: Request) -> str:
    """nginx overwrites X-Forwarded-For with the address it sees, and only nginx can reach this program."""
    return (req.get_header("X-Forwarded-For") or req.remote_addr)[:64]
