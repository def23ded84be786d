"""What to send, when, and what should come back."""

import json
import mimetypes
import random
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tools.load.http1 import request_bytes


@dataclass(frozen=True)
class Expected:
    """What a right answer is: exactly these bytes, or JSON whose first `label` is this one."""

    sha256: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Target:
    host: str
    port: int
    tls: ssl.SSLContext | None
    server_name: str


@dataclass(frozen=True)
class Plan:
    target: Target
    requests: list[bytes]  # whole requests, sent in turn
    arrivals: Iterable[float]  # seconds after the start, in their order
    expected: dict[int, Expected]  # by position in `requests`
    is_right: Callable[[int, bytes], bool] | None = None  # also asked, for a success: the request's number, its answer
    timeout_s: float = 30.0
    max_connections: int = 256


def constant_arrivals(rate: float, seconds: float) -> list[float]:
    return [index / rate for index in range(round(rate * seconds))]


def poisson_arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    return list(_poisson(rate, seconds, random.Random(seed)))


def _poisson(rate: float, seconds: float, rng: random.Random) -> Iterator[float]:
    moment = rng.expovariate(rate)
    while moment < seconds:
        yield moment
        moment += rng.expovariate(rate)


def read_target(url: str, ca_file: Path | None, connect_to: str | None) -> Target:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url {url!r} is not http(s)://host[:port]/path")
    tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    return Target(connect_to or parts.hostname, port, tls, parts.hostname)


def read_headers(lines: list[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            # The line may be a key that lacks its header's name, so it is not repeated.
            raise ValueError("a header line is not `Name: value`")
        headers[name.strip()] = value.strip()
    return headers


def build_requests(url: str, headers: dict[str, str], bodies: list[Path], content_type: str | None) -> list[bytes]:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    common = {"Host": parts.netloc, "User-Agent": "bedplate-load", **headers}
    if not bodies:
        return [request_bytes("GET", target, common, b"")]
    return [
        request_bytes("POST", target, common | {"Content-Type": content_type or _type_of(path)}, path.read_bytes())
        for path in bodies
    ]


def _type_of(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def read_expected(path: Path, bodies: int) -> dict[int, Expected]:
    """`{"0": {"label": "7"}, "1": {"sha256": "9f0c…"}}`, the key being the position of the body."""
    expected = {int(position): Expected(**rule) for position, rule in json.loads(path.read_text()).items()}
    if unknown := [position for position in expected if position not in range(bodies)]:
        raise ValueError(f"{path} expects answers to bodies {unknown}, but {bodies} bodies are given, counted from 0")
    return expected
