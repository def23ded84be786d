"""`bedplate predict`: files to a deployment, and what it says of each. A client for people and for small scripts.

Exit status: 0 when every file was answered, 1 when one was not, 2 when nobody could be asked.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import mimetypes
import os
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from bedplate import __version__
from bedplate.table import table

KEY_VARIABLE = "BEDPLATE_API_KEY"
_UNUSABLE = 2
_ATTEMPTS = 5
_LONGEST_PAUSE_S = 30.0
_BAR = 30  # characters
# What a server says that cannot answer now, and will soon.
_LATER = (429, 503)
Answer = dict[str, Any]


class Unusable(Exception):
    """Nothing can be asked; the message says why and what would do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="https://… of the deployment")
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="picture, recording, video; .json; raw tensor"
    )
    parser.add_argument("--model", metavar="NAME", help="which model; not needed where there is one")
    parser.add_argument("--version", metavar="VERSION", help="a version or an alias (default: the default)")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help=f"the API key (default: ${KEY_VARIABLE})")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificates of the authority to trust")
    parser.add_argument("--address", metavar="ADDRESS", help="where to connect to while the name does not resolve")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, in the order of the files")
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="files under way at once (default: 4)")
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="for each answer (default: 60)")


def run(args: argparse.Namespace) -> int:
    """Ask for each file; answers go to standard output, progress and what went wrong to standard error."""
    try:
        deployment = Deployment(args.url, _key(args.key_file), args.ca, args.timeout, args.address)
        path = _path(args.model or deployment.only_model(), args.version)
    except Unusable as error:
        print(f"bedplate predict: {error}", file=sys.stderr)
        return _UNUSABLE
    with ThreadPoolExecutor(max(1, args.parallel)) as pool:
        answers = pool.map(lambda file: _ask(deployment, path, file), args.files)
        shown = _with_progress(answers, len(args.files), sys.stderr)
        failed = (_write_lines if args.json else _write_table)(shown, sys.stdout)
    return 1 if failed else 0


class Deployment:
    """One connection for each thread, kept open.

    Raises:
        Unusable: the address, the key or the authority cannot be used.
    """

    def __init__(self, url: str, key: str, ca: Path | None, timeout_s: float, address: str | None = None):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unusable(f"{url!r} does not do, wanted https://HOST")
        if address and parts.scheme != "https":
            raise Unusable("--address is for https, which proves that the name answers there")
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._context = _context(ca) if parts.scheme == "https" else None
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": f"bedplate/{__version__}"}
        self._timeout_s = timeout_s
        self._address = address or parts.hostname
        self._mine = threading.local()

    def only_model(self) -> str:
        status, document = self.request("GET", "/v1/models", b"", {})
        if status != 200:
            raise Unusable(f"the models are not told ({_reason(status, document)})")
        names = [model["name"] for model in document["models"]]
        if len(names) != 1:
            raise Unusable(f"--model is needed: {', '.join(names) or 'no model'} is served")
        return str(names[0])

    def request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Answer]:
        """Status and document of the answer. What a server is too busy for is asked again, as late as it says.

        Raises:
            Unusable: there is no answer.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                answer, content = self._once(method, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                raise Unusable(f"{self._host}: {error or type(error).__name__}") from None
            if answer.status not in _LATER or attempt == _ATTEMPTS:
                break
            time.sleep(_pause_s(answer.getheader("Retry-After")))
        return answer.status, _document(content)

    def _once(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        reused = getattr(self._mine, "connection", None)
        connection = reused or self._connection()
        self._mine.connection = connection
        try:
            connection.request(method, self._prefix + path, body or None, self._headers | headers)
            answer = connection.getresponse()
            return answer, answer.read()
        except (ConnectionError, http.client.RemoteDisconnected):
            connection.close()
            self._mine.connection = None
            if reused is None:
                raise
            # It had been closed while nobody used it.
            return self._once(method, path, body, headers)
        except (OSError, http.client.HTTPException):
            connection.close()
            self._mine.connection = None
            raise

    def _connection(self) -> http.client.HTTPConnection:
        if self._context:
            return _Verified(self._host, self._port, self._address, self._timeout_s, self._context)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)


class _Verified(http.client.HTTPSConnection):
    """Goes to an address, and wants the certificate of a name there."""

    def __init__(self, host: str, port: int | None, address: str, timeout_s: float, context: ssl.SSLContext):
        super().__init__(host, port, timeout=timeout_s, context=context)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        # Header and body are two writes; without this the second would wait for an acknowledgement.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def _ask(deployment: Deployment, path: str, file: Path) -> Answer:
    """{"file", "predictions", …} or {"file", "error"}."""
    began = time.monotonic()
    try:
        body = file.read_bytes()
        status, document = deployment.request("POST", path, body, {"Content-Type": _content_type(file)})
    except (OSError, Unusable) as error:
        return {"file": str(file), "error": str(error)}
    if status != 200:
        return {"file": str(file), "error": _reason(status, document)}
    took_ms = round((time.monotonic() - began) * 1e3, 1)
    return {"file": str(file), "took_ms": took_ms, **document}


def _content_type(file: Path) -> str:
    """What a file is, the server looks at; here it is only said that it is one, or a tensor."""
    kind, _ = mimetypes.guess_type(file.name)
    if kind == "application/json" or (kind and kind.split("/")[0] in ("image", "audio", "video")):
        return kind
    return "application/octet-stream"


def _path(model: str, version: str | None) -> str:
    name = urllib.parse.quote(model, safe="")
    return (
        f"/v1/models/{name}/predict"
        if version is None
        else (f"/v1/models/{name}/versions/{urllib.parse.quote(version, safe='')}/predict")
    )


def _key(file: Path | None) -> str:
    try:
        key = file.read_text().strip() if file else os.environ.get(KEY_VARIABLE, "")
    except OSError as error:
        raise Unusable(f"{file}: cannot be read ({error.strerror})") from None
    if not key or not key.isascii() or not key.isprintable():
        raise Unusable(f"there is no API key in {file or '$' + KEY_VARIABLE}; put one there, or name a --key-file")
    return key


def _context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as error:
        raise Unusable(f"{ca}: holds no certificates ({error})") from None


def _document(content: bytes) -> Answer:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _reason(status: int, problem: Answer) -> str:
    """A problem in one line: what was wrong, and what to do."""
    words = [str(problem.get("detail") or problem.get("title") or http.client.responses.get(status, "no reason"))]
    words += [str(problem["next_step"])] if problem.get("next_step") else []
    return f"{status}: {'; '.join(words)}"


def _pause_s(retry_after: str | None) -> float:
    return min(float(retry_after), _LONGEST_PAUSE_S) if retry_after and retry_after.isdecimal() else 1.0


def _with_progress(answers: Iterable[Answer], total: int, out: TextIO) -> Iterator[Answer]:
    """The same; on a terminal a bar tells how far it is."""
    for number, answer in enumerate(answers, 1):
        if out.isatty() and total > 1:
            filled = _BAR * number // total
            out.write(
                f"\r[{'#' * filled}{'.' * (_BAR - filled)}] {number} of {total}" + ("\n" if number == total else "")
            )
            out.flush()
        yield answer


def _write_lines(answers: Iterable[Answer], out: TextIO) -> int:
    failed = 0
    for answer in answers:
        print(json.dumps(answer), file=out, flush=True)
        failed += "error" in answer
    return failed


def _write_table(answers: Iterable[Answer], out: TextIO) -> int:
    every = list(answers)
    rows = [("file", "answer", "score", "ms"), *(row for answer in every for row in _rows(answer))]
    with contextlib.suppress(BrokenPipeError):
        print(table(rows), file=out)
    return sum("error" in answer for answer in every)


def _rows(answer: Answer) -> Iterator[tuple[str, str, str, str]]:
    if "error" in answer:
        yield answer["file"], f"no answer: {answer['error']}", "", ""
        return
    for prediction in answer["predictions"]:
        if "items" in prediction:
            yield from ((answer["file"], one["item"], f"{one['score']:.4f}", "") for one in prediction["items"])
            continue
        label = prediction.get("label") or _counted(prediction)
        score = f"{prediction['score']:.4f}" if "score" in prediction else ""
        yield answer["file"], label, score, f"{answer['took_ms']:.1f}"


def _counted(prediction: Mapping[str, Any]) -> str:
    if "boxes" in prediction:
        return ", ".join(f"{box['label']} {box['score']:.2f}" for box in prediction["boxes"]) or "nothing"
    return f"output of {len(prediction['output'])}"
