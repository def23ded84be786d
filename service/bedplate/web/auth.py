"""API keys: who may call, and the middleware that asks. Only hashes are stored."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
from pathlib import Path
from typing import Any

from falcon.asgi import Request, Response

from bedplate.errors import MissingCredential, WrongCredential
from bedplate.settings import SettingsError

PUBLIC_PATHS = frozenset({"/ping", "/health", "/health/live", "/health/ready"})
_NEXT_STEP = "send 'Authorization: Bearer <key>'; the operator has the key"
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_security = logging.getLogger("bedplate.security")


class ApiKeys:
    """The clients that may call, by the sha256 of their key. Keys have 256 random bits, so a fast hash is enough."""

    def __init__(self, clients_by_sha256: dict[str, str]):
        self._clients_by_sha256 = clients_by_sha256

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Read a JSON list of `{"client": name, "sha256": 64 hex digits}`.

        Raises:
            SettingsError: not readable, not such a list, or empty.
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
        """The client that owns `key`. Every stored hash is compared, so time tells nothing about which one was near."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        found = None
        for known, client in self._clients_by_sha256.items():
            if hmac.compare_digest(known, digest):
                found = client
        return found


class RequireKey:
    """Falcon middleware: every route but PUBLIC_PATHS wants a key, routes that do not exist included."""

    def __init__(self, keys: ApiKeys):
        self._keys = keys

    async def process_request(self, req: Request, resp: Response) -> None:
        if req.path in PUBLIC_PATHS:
            return
        key = presented(req.auth, req.get_header("X-API-Key"))
        if key is None:
            _log_refusal(req, "missing")
            raise MissingCredential("this route needs an API key", next_step=_NEXT_STEP)
        client = self._keys.client_of(key)
        if client is None:
            _log_refusal(req, "wrong")
            raise WrongCredential("the API key is not known here", next_step=_NEXT_STEP)
        req.context.client = client


def presented(authorization: str | None, x_api_key: str | None) -> str | None:
    """The key in one of these two headers."""
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return x_api_key


def _log_refusal(req: Request, kind: str) -> None:
    fields: dict[str, Any] = {"request_id": req.context.request_id, "path": req.path[:200], "from": _origin(req)}
    _security.warning("%s credential", kind, extra=fields)


def _origin(req: Request) -> str:
    """nginx overwrites X-Forwarded-For with the address it sees, and only nginx can reach this program."""
    return (req.get_header("X-Forwarded-For") or req.remote_addr)[:64]
