"""`bedplate predict --output`: thousands of items as one piece of work, gone on with where it was cut off.

Tables (.csv) and lines (.jsonl, what `inputs` would hold, one a line) are cut into requests of some items; any other
file is an item. Each item's answer is a line of the output, and what has a line there is not asked again. Where a
request ended the engines that computed it, that is the answer of all its items.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bedplate.commands.client import Answer, Deployment, Unusable, content_type_of, reason_of, with_progress

_REFUSED = 1
_STOPPED = 2
Key = tuple[str, int]  # of an item: its file, and its row there from 1; 0 is all of the file


@dataclass(frozen=True)
class Source:
    """One file: how many items it has, and the request body for some of them."""

    file: Path
    rows: range
    content_type: str
    body: Callable[[Sequence[int]], bytes]


@dataclass(frozen=True)
class Part:
    source: Source
    rows: Sequence[int]


class _Refused(Exception):
    """Items were refused; the message says why."""


def run(deployment: Deployment, path: str, files: Sequence[Path], output: Path, items: int, parallel: int) -> int:
    """Send each item that has no line in `output` yet.

    Returns:
        0 when every item was answered, 1 when some were refused, 2 when no further request could be sent.
    """
    began = time.monotonic()
    try:
        known, refused = _read(output)
        parts = list(_parts(files, known, items))
        asked = sum(len(part.rows) for part in parts)
        with output.open("a") as out, ThreadPoolExecutor(max(1, parallel)) as pool:
            answers = pool.map(lambda part: list(_answers(deployment, path, part)), parts)
            for lines in with_progress(answers, len(parts), sys.stderr):
                # In one piece: what is cut off in the middle of a line is asked again.
                out.write("".join(f"{json.dumps(line)}\n" for line in lines))
                out.flush()
                refused += sum("error" in line for line in lines)
    except (OSError, Unusable) as error:
        print(f"bedplate predict: {error}\nRun it again to go on; {output} has what was answered.", file=sys.stderr)
        return _STOPPED
    took_s = time.monotonic() - began
    told = f"{asked} items asked in {took_s:.1f} s, {len(known)} were there already, {refused} of all were refused"
    print(f"{told}: {output}", file=sys.stderr)
    return _REFUSED if refused else 0


def _read(output: Path) -> tuple[set[Key], int]:
    """The items that have a line, and how many of those were refused. Half a line at the end is cut off.

    Raises:
        Unusable: the file is of another kind.
    """
    if not output.exists():
        return set(), 0
    content = output.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        known = {(str(line["file"]), int(line["row"])) for line in lines}
    except (ValueError, KeyError, TypeError):
        raise Unusable(f"{output}: holds what are no answers; name another --output") from None
    if len(whole) < len(content):
        with output.open("r+b") as file:
            file.truncate(len(whole))
    return known, sum("error" in line for line in lines)


def _parts(files: Sequence[Path], known: set[Key], items: int) -> Iterator[Part]:
    for file in files:
        source = _source(file)
        rows = [row for row in source.rows if (str(file), row) not in known]
        for start in range(0, len(rows), items):
            yield Part(source, rows[start : start + items])


def _source(file: Path) -> Source:
    suffix = file.suffix.lower()
    if suffix == ".csv":
        return _table(file)
    if suffix == ".jsonl":
        lines = [line for line in file.read_bytes().splitlines() if line.strip()]
        body = lambda rows: b'{"inputs":[' + b",".join(lines[row - 1] for row in rows) + b"]}"  # noqa: E731
        return Source(file, range(1, len(lines) + 1), "application/json", body)
    return Source(file, range(1), content_type_of(file), lambda rows: file.read_bytes())


def _table(file: Path) -> Source:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            head, *rows = [row for row in csv.reader(lines) if row]
    except (ValueError, csv.Error):
        raise Unusable(f"{file}: is no table; its first line has to name the columns") from None

    def body(wanted: Sequence[int]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([head, *(rows[row - 1] for row in wanted)])
        return text.getvalue().encode()

    return Source(file, range(1, len(rows) + 1), "text/csv", body)


def _answers(deployment: Deployment, path: str, part: Part) -> Iterator[Answer]:
    """A line for each item. Where a request is refused for one of them, it is asked in smaller pieces.

    Raises:
        OSError, Unusable: there is no answer, or one that is about no item.
    """
    source, rows = part.source, part.rows
    headers = {"Content-Type": source.content_type, "X-Request-Priority": "batch"}
    status, document = deployment.request("POST", path, source.body(rows), headers)
    if status == 200:
        yield from _lines(source, rows, document)
    elif str(document.get("type", "")).endswith(":engine-lost"):
        yield from _ended(source, rows, reason_of(status, document))
    elif not _is_about_items(status, document):
        raise Unusable(reason_of(status, document))
    elif len(rows) == 1:
        yield {"file": str(source.file), "row": rows[0], "error": reason_of(status, document)}
    else:
        size = _smaller(document, len(rows))
        for start in range(0, len(rows), size):
            yield from _answers(deployment, path, Part(source, rows[start : start + size]))


def _ended(source: Source, rows: Sequence[int], reason: str) -> Iterator[Answer]:
    """One of these items ends who computes it. To find out which would end more of them, so each has that answer."""
    which = f"one of the {len(rows)} items from row {rows[0]} to {rows[-1]}: " if len(rows) > 1 else ""
    for row in rows:
        yield {"file": str(source.file), "row": row, "error": f"{which}{reason}"}


def _lines(source: Source, rows: Sequence[int], document: Answer) -> Iterator[Answer]:
    predictions = document["predictions"]
    common = {"file": str(source.file), "model": document["model"], "version": document["version"]}
    if rows[0] == 0:
        yield {**common, "row": 0, "predictions": predictions}
        return
    if len(predictions) != len(rows):
        raise Unusable(f"{source.file}: {len(predictions)} answers to {len(rows)} rows; each row has to be one item")
    for row, prediction in zip(rows, predictions, strict=True):
        yield {**common, "row": row, "prediction": prediction}


def _is_about_items(status: int, document: Answer) -> bool:
    """Whether others of the same request might do."""
    return status in (400, 413, 415, 422) or str(document.get("type", "")).endswith(":unknown-user")


def _smaller(document: dict[str, Any], found: int) -> int:
    limit = document.get("limit")
    if str(document.get("type", "")).endswith(":too-many-items") and isinstance(limit, int):
        return max(1, min(limit, found - 1))
    return found // 2
