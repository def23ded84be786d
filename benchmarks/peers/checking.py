"""Right answers before any figure, and after it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from benchmarks.peers.cases import CHECKED, Array, Case, Dialect, WrongAnswer

# At once, so that they meet in batches: one given to the wrong client would be noticed.
_AT_ONCE = 16
_TIMEOUT_S = 30.0


def ask(port: int, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes, str | None]:
    """Status, body, and the length of the JSON in front of binary data, if there is one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("Inference-Header-Content-Length")
    finally:
        connection.close()


def answer_to(number: int, case: Case, dialect: Dialect, port: int, path: str) -> Array:
    status, body, head_bytes = ask(port, path, case.headers(dialect), case.body(number, dialect))
    if status != 200:
        raise WrongAnswer(f"input {number}: status {status}, {body[:300]!r}")
    try:
        return case.read(body, head_bytes)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise WrongAnswer(f"input {number}: {body[:300]!r} is no answer ({error})") from None


def wait_until_ready(case: Case, dialect: Dialect, port: int, path: str, timeout_s: float, alive: object) -> None:
    """Until the first answer.

    Raises:
        TimeoutError: none came; says what came last.
    """
    give_up = time.monotonic() + timeout_s
    while True:
        try:
            answer_to(0, case, dialect, port, path)
            return
        except (OSError, http.client.HTTPException, WrongAnswer) as error:
            if time.monotonic() > give_up or not (callable(alive) and alive()):
                raise TimeoutError(f"not ready: {error!r}") from None
        time.sleep(0.2)


def check(case: Case, dialect: Dialect, port: int, path: str) -> None:
    """
    Raises:
        WrongAnswer: any answer is not torch's.
    """

    def one(number: int) -> None:
        answer = answer_to(number, case, dialect, port, path)
        if not case.is_right(number, answer):
            wanted = case.expected[number]
            raise WrongAnswer(f"input {number}: {answer[:4]} of shape {answer.shape}, torch says {wanted[:4]}")

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(one, range(CHECKED)))
