"""`bedplate predict`: send files to a deployment and print the predictions. A client for people and small scripts.

The exit status is 0 if every file was answered, 1 if one was not, and 2 if no request could be sent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from bedplate.commands import predict_output
from bedplate.commands.client import Answer, Deployment, Unusable, content_type_of, reason_of, with_progress
from bedplate.commands.table import table

KEY_VARIABLE = "BEDPLATE_API_KEY"
_UNUSABLE = 2
_LONGEST_ANSWER = 80  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL", help="https://… of the deployment")
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="picture, recording, video; .json; .csv; raw tensor"
    )
    parser.add_argument("--model", metavar="NAME", help="which model; not needed where there is one")
    parser.add_argument("--version", metavar="VERSION", help="a version or an alias (default: the default)")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help=f"the API key (default: ${KEY_VARIABLE})")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificates of the authority to trust")
    parser.add_argument("--address", metavar="ADDRESS", help="where to connect to while the name does not resolve")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, in the order of the files")
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="files under way at once (default: 4)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a line for each item, kept: run again, it goes on")
    parser.add_argument(
        "--items", type=_count, default=64, metavar="N", help="of .csv and .jsonl, with --output, a request"
    )
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="for each answer (default: 60)")


def run(args: argparse.Namespace) -> int:
    """Send each file; print answers to standard output, and progress and failures to standard error."""
    try:
        deployment = Deployment(args.url, _key(args.key_file), args.ca, args.timeout, args.address)
        path = _path(args.model or deployment.only_model(), args.version)
    except Unusable as error:
        print(f"bedplate predict: {error}", file=sys.stderr)
        return _UNUSABLE
    if args.output:
        return predict_output.run(deployment, path, args.files, args.output, args.items, args.parallel)
    with ThreadPoolExecutor(max(1, args.parallel)) as pool:
        answers = pool.map(lambda file: _ask(deployment, path, file), args.files)
        shown = with_progress(answers, len(args.files), sys.stderr)
        failed = (_write_lines if args.json else _write_table)(shown, sys.stdout)
    return 1 if failed else 0


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _ask(deployment: Deployment, path: str, file: Path) -> Answer:
    """{"file", "predictions", …} or {"file", "error"}."""
    began = time.monotonic()
    try:
        body = file.read_bytes()
        status, document = deployment.request("POST", path, body, {"Content-Type": content_type_of(file)})
    except (OSError, Unusable) as error:
        return {"file": str(file), "error": str(error)}
    if status != 200:
        return {"file": str(file), "error": reason_of(status, document)}
    took_ms = round((time.monotonic() - began) * 1e3, 1)
    return {"file": str(file), "took_ms": took_ms, **document}


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
        try:
            told = _told(prediction)
        except (KeyError, TypeError, AttributeError):
            # What a bundle's own codec says may be anything.
            text = json.dumps(prediction)
            told = [(text if len(text) <= _LONGEST_ANSWER else text[: _LONGEST_ANSWER - 3] + "...", "")]
        yield from ((answer["file"], label, score, f"{answer['took_ms']:.1f}") for label, score in told)


def _told(prediction: Any) -> list[tuple[str, str]]:
    """Label and score; of what is recommended each."""
    if "items" in prediction:
        return [(one["item"], f"{one['score']:.4f}") for one in prediction["items"]]
    if "label" in prediction:
        return [(prediction["label"], f"{prediction['score']:.4f}")]
    if "boxes" in prediction:
        shown = ", ".join(f"{box['label']} {box['score']:.2f}" for box in prediction["boxes"])
        return [(shown or "nothing", "")]
    return [(f"output of {len(prediction['output'])}", "")]
