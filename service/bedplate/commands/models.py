"""`bedplate models`: send an operator's command to every engine of the host in turn, over their admin sockets.

The exit status is 0 if every engine succeeded, 1 if one failed, and 2 if no engine could be reached.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bedplate import wire
from bedplate.commands.table import table
from bedplate.wire import Frame, FrameError, FrameReader, Type

_FAILED = 1
_UNUSABLE = 2
Answer = dict[str, Any]
Row = dict[str, Any]


class EngineError(Exception):
    """An engine did not execute a command; the message says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--admin-dir", type=Path, default=Path("/run/bedplate/admin"), help="default: %(default)s")
    common.add_argument("--device", metavar="cpuN|gpuN", help="ask this engine alone (default: all of the host)")
    common.add_argument("--json", action="store_true", help="one JSON object, for programs")
    common.add_argument("--timeout", type=_seconds, default=600, metavar="SECONDS", help="for each engine's answer")
    verbs = parser.add_subparsers(dest="do", required=True, metavar="VERB")

    verbs.add_parser("list", parents=[common], help="what is loaded, and under which aliases")
    verbs.add_parser("stats", parents=[common], help="the same, with what each engine counted")
    load = verbs.add_parser("load", parents=[common], help="serve a bundle beside what is served")
    load.add_argument("directory", help="below models_dir, as digits/2")
    load.add_argument("--swap", action="store_true", help="if it does not fit, the default version makes room")
    promote = verbs.add_parser("promote", parents=[common], help="let an alias be this version")
    promote.add_argument("name")
    promote.add_argument("version")
    promote.add_argument("alias", nargs="?", default="default", help="(default: %(default)s)")
    unload = verbs.add_parser("unload", parents=[common], help="serve a version no longer")
    unload.add_argument("name")
    unload.add_argument("version")
    unload.add_argument("--last", action="store_true", help="even if no other version of this name is left")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86_400:
        raise ValueError
    return value


def run(args: argparse.Namespace) -> int:
    """Send the command to every engine; print the answers to standard output and failures to standard error."""
    try:
        sockets = _sockets(args.admin_dir, args.device)
    except OSError as error:
        return _say(
            _UNUSABLE, f"{args.admin_dir} cannot be read ({error.strerror}); be root, or in the group bedplate-admin"
        )
    if not sockets:
        return _say(_UNUSABLE, f"{args.admin_dir} has no {args.device or '*'}.sock; is the engine running?")
    if args.do == "promote" and (missing := _without_version(sockets, args)):
        return _say(_FAILED, *missing, "nothing was promoted")
    answers, failures = _ask_each(sockets, _question(args), args.timeout)
    _SHOW[args.do](args, answers, failures)
    return _say(_FAILED if failures else 0, *(f"{device}: {reason}" for device, reason in failures.items()))


def ask(path: Path, question: dict[str, Any], timeout_s: float) -> Answer:
    """Send one command to one engine.

    Raises:
        EngineError: the engine refused, or did not answer in time.
    """
    deadline_s = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(str(path))
            sock.sendall(b"".join(wire.encode(Frame(Type.ADMIN, 1, question))))
            answer = _receive(sock, deadline_s).meta
        except (ConnectionRefusedError, FileNotFoundError):
            raise EngineError(f"nobody answers on {path}; the engine is dead, or is starting") from None
        except PermissionError:
            raise EngineError(f"{path} may not be used; be root, or in the group bedplate-admin") from None
        except TimeoutError:
            raise EngineError(f"no answer within {timeout_s:g} s; it may still be done, see 'models list'") from None
        except (OSError, FrameError) as error:
            raise EngineError(f"the connection broke ({error}); see the log of the engine") from None
    if answer.get("ok") is not True:
        raise EngineError(str(answer.get("error", "refused without a reason")))
    return answer


def _receive(sock: socket.socket, deadline_s: float) -> Frame:
    reader = FrameReader(max_tensor_bytes=0)
    while True:
        sock.settimeout(max(0.001, deadline_s - time.monotonic()))
        data = sock.recv(1 << 16)
        if not data:
            raise FrameError("the engine hung up")
        for frame in reader.feed(data):
            return frame


def _sockets(directory: Path, device: str | None) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.suffix == ".sock" and device in (None, path.stem))


def _question(args: argparse.Namespace) -> dict[str, Any]:
    fields = {
        "load": ("directory", "swap"),
        "promote": ("name", "version", "alias"),
        "unload": ("name", "version", "last"),
    }.get(args.do, ())
    return {"do": args.do, **{field: getattr(args, field) for field in fields}}


def _ask_each(
    sockets: Iterable[Path], question: dict[str, Any], timeout_s: float
) -> tuple[dict[str, Answer], dict[str, str]]:
    """Answers and failures by device; a failure of one keeps none of the others from it."""
    answers: dict[str, Answer] = {}
    failures: dict[str, str] = {}
    for path in sockets:
        try:
            answers[path.stem] = ask(path, question, timeout_s)
        except EngineError as error:
            failures[path.stem] = str(error)
    return answers, failures


def _without_version(sockets: Sequence[Path], args: argparse.Namespace) -> list[str]:
    """Engines that cannot promote: an alias must not be one version here and another there."""
    answers, failures = _ask_each(sockets, {"do": "list"}, args.timeout)
    told = [f"{device}: {reason}" for device, reason in failures.items()]
    for device, answer in answers.items():
        if not any((row["name"], row["version"]) == (args.name, args.version) for row in answer["models"]):
            told.append(f"{device}: {args.name} {args.version} is not loaded; load it first")
    return told


def _show_models(args: argparse.Namespace, answers: dict[str, Answer], failures: dict[str, str]) -> None:
    rows = [{"device": device, **row} for device, answer in answers.items() for row in answer["models"]]
    if args.json:
        print(json.dumps({"models": rows, "errors": failures}))
        return
    columns = _LIST if args.do == "list" else _LIST + [key for key in _all_keys(rows) if key not in _KNOWN]
    print(_table([_shown(row) for row in rows], columns))


def _show_done(args: argparse.Namespace, answers: dict[str, Answer], failures: dict[str, str]) -> None:
    if args.json:
        done = {
            device: {key: value for key, value in answer.items() if key != "ok"} for device, answer in answers.items()
        }
        print(json.dumps({"done": done, "errors": failures}))
        return
    for device, answer in answers.items():
        print(f"{device}: {_PAST[args.do](args, answer)}")


def _loaded(args: argparse.Namespace, answer: Answer) -> str:
    what = f"{answer['name']} {answer['version']}"
    return f"loaded {what}" if answer["changed"] else f"{what} is loaded already"


_PAST: dict[str, Callable[[argparse.Namespace, Answer], str]] = {
    "load": _loaded,
    "promote": lambda args, answer: f"{args.name} {args.alias} is {args.version}",
    "unload": lambda args, answer: f"unloaded {args.name} {args.version}",
}
_SHOW = {
    "list": _show_models,
    "stats": _show_models,
    "load": _show_done,
    "promote": _show_done,
    "unload": _show_done,
}
_LIST = ["device", "name", "version", "aliases", "form", "weights", "loaded"]
_KNOWN = {*_LIST, "weights_bytes", "loaded_at", "digest", "directory"}


def _shown(row: Row) -> Row:
    """For people: megabytes, and the time as clocks on the wall have it."""
    return {
        **row,
        "aliases": ",".join(row["aliases"]) or "-",
        "weights": f"{row['weights_bytes'] / 1e6:.1f}MB",
        "loaded": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(row["loaded_at"])),
    }


def _all_keys(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    lines = [[column.upper() for column in columns]]
    lines += [[str(row.get(column, "-")) for column in columns] for row in rows]
    return table(lines)


def _say(status: int, *lines: str) -> int:
    for line in lines:
        print(f"bedplate models: {line}", file=sys.stderr)
    return status
