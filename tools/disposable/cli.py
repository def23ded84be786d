"""The command line: tools/testhosts VERB FLEET …"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from contextlib import AbstractContextManager

from tools.disposable import emulated
from tools.disposable.fleet import EMULATED_SSH_TIMEOUT_S, LOCK, Fleet, ensure_roots, suite_of
from tools.disposable.hosts import POWEROFF_TIMEOUT_S
from tools.disposable.outsider import run_outside
from tools.disposable.system import Refused, locked, require_commands

# What the tool reads from its environment; sudo would drop it.
ENVIRONMENT = "BEDPLATE_SUITE,BEDPLATE_CACHE,BEDPLATE_MIRROR,http_proxy,https_proxy,no_proxy"


def main() -> None:
    arguments = _parser().parse_args()
    _become_root()
    # Root's PATH lacks the system directories after a plain `su`.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    try:
        require_commands()
        arguments.action(arguments)
    except Refused as refused:
        sys.exit(f"testhosts: {refused}")
    except KeyboardInterrupt:
        sys.exit("testhosts: interrupted; `up` goes on from here, `down` removes what there is")


def up(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    fleet = Fleet(arguments.fleet)
    suites = {name: suite_of(fleet, name, suite) for name, suite in arguments.hosts}
    ensure_roots(set(suites.values()))
    with _lock():
        fleet.prepare()
        for name, suite in suites.items():
            print(f"{name}: {fleet.complete(name, suite)} ({suite})", flush=True)
        fleet.publish()
    fleet.wait_for_ssh(list(suites))
    print(f"{', '.join(suites)}: ssh answers after {time.monotonic() - started:.1f} s", flush=True)
    print(f"try: ssh -F {fleet.access}/ssh_config {next(iter(suites))}", flush=True)


def down(arguments: argparse.Namespace) -> None:
    fleet = Fleet(arguments.fleet)
    with _lock():
        for name in arguments.names:
            if fleet.network():
                fleet.host(name).remove()
        if arguments.names and fleet.hosts():
            fleet.publish()
            print(f"{', '.join(arguments.names)}: gone", flush=True)
        else:
            fleet.remove()
            print(f"{arguments.fleet}: gone", flush=True)


def status(arguments: argparse.Namespace) -> None:
    summary = Fleet(arguments.fleet).summary()
    if arguments.json:
        print(json.dumps(summary, indent=2))
        return
    for host in summary["hosts"] or [{"name": arguments.fleet, "state": "has no hosts"}]:
        print(*(host.get(field) or "-" for field in ("name", "state", "address", "suite", "pid")), sep="\t")


def poweroff(arguments: argparse.Namespace) -> None:
    fleet = Fleet(arguments.fleet)
    with _lock():
        fleet.finished_host(arguments.host).stop(POWEROFF_TIMEOUT_S)
        fleet.publish()
    print(f"{arguments.host}: off", flush=True)


def boot(arguments: argparse.Namespace) -> None:
    fleet = Fleet(arguments.fleet)
    with _lock():
        host = fleet.finished_host(arguments.host)
        fleet.prepare()
        if not host.process():
            host.boot()
        fleet.publish()
    fleet.wait_for_ssh([arguments.host])
    print(f"{arguments.host}: ssh answers", flush=True)


def emulate(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    require_commands(emulated.NEEDED)
    fleet = Fleet(arguments.fleet)
    with _lock():
        host = fleet.finished_host(arguments.host)
        fleet.prepare()
        host.stop(POWEROFF_TIMEOUT_S)
        host.emulate()
        fleet.publish()
    fleet.wait_for_ssh([arguments.host], EMULATED_SSH_TIMEOUT_S)
    print(f"{arguments.host}: a virtual machine, ssh answers after {time.monotonic() - started:.0f} s", flush=True)


def reset(arguments: argparse.Namespace) -> None:
    Fleet(arguments.fleet).finished_host(arguments.host).reset()
    print(f"{arguments.host}: reset", flush=True)


def console(arguments: argparse.Namespace) -> None:
    print(Fleet(arguments.fleet).finished_host(arguments.host).console(), end="")


def outside(arguments: argparse.Namespace) -> None:
    network = Fleet(arguments.fleet).network()
    if network is None:
        raise Refused(f"fleet {arguments.fleet} does not exist")
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    sys.exit(run_outside(network, command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testhosts", description="Disposable hosts on this machine.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, action: object, summary: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary)
        added.set_defaults(action=action)
        added.add_argument("fleet", type=valid_name, metavar="FLEET")
        return added

    verb("up", up, "make or complete a fleet").add_argument("hosts", nargs="+", type=_wanted, metavar="HOST[:SUITE]")
    verb("down", down, "remove a fleet, or some hosts").add_argument(
        "names", nargs="*", type=valid_name, metavar="HOST"
    )
    verb("status", status, "list a fleet's hosts").add_argument("--json", action="store_true")
    verb("poweroff", poweroff, "stop a host, keep its disk").add_argument("host", type=valid_name, metavar="HOST")
    verb("boot", boot, "start a host that is off").add_argument("host", type=valid_name, metavar="HOST")
    verb("emulate", emulate, "boot a copy as a virtual machine").add_argument("host", type=valid_name, metavar="HOST")
    verb("reset", reset, "reset a virtual machine").add_argument("host", type=valid_name, metavar="HOST")
    verb("console", console, "what a host wrote to its console").add_argument("host", type=valid_name, metavar="HOST")
    stranger = verb("outside", outside, "run a command on the fleet's network, as no member of it")
    stranger.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD")
    return parser


def valid_name(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: want a lower-case letter, then up to 19 letters, digits or hyphens"
        )
    return text


def _wanted(text: str) -> tuple[str, str]:
    name, _, suite = text.partition(":")
    return valid_name(name), suite


def _lock() -> AbstractContextManager[int]:
    return locked(LOCK, "waiting for another testhosts")


def _become_root() -> None:
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") is None:
        sys.exit("testhosts: needs root for mounts, bridges and systemd-nspawn, and there is no sudo: run it as root")
    os.execvp("sudo", ["sudo", f"--preserve-env={ENVIRONMENT}", sys.executable, *sys.argv])
