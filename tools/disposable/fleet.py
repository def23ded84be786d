"""A fleet: hosts on one network, made or completed, looked at, taken down without a trace."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.disposable import network as net
from tools.disposable.access import KEY, Reachable, make_key, remove_access, write_access
from tools.disposable.hosts import Facts, Host
from tools.disposable.network import Network
from tools.disposable.roots import ensure_root, root_path
from tools.disposable.suites import DEFAULT, SUITES
from tools.disposable.system import Refused, remove_tree, write_file

STATE = Path("/var/lib/bedplate-hosts")
LOCK = Path("/run/bedplate-hosts.lock")
REPOSITORY = Path(__file__).resolve().parents[2]

# .1 is the machine's; .250 is kept for an outsider.
FIRST_NUMBER = 11
LAST_NUMBER = 199
SSH_TIMEOUT_S = 60
# Under software emulation, beside other work.
EMULATED_SSH_TIMEOUT_S = 600


class Fleet:
    def __init__(self, name: str):
        repository4 = hashlib.sha256(str(REPOSITORY).encode()).hexdigest()[:4]
        self.name = name
        self.key = f"{name}-{repository4}"
        self.folder = STATE / self.key
        self.access = REPOSITORY / ".bedplate" / name

    def network(self) -> Network | None:
        path = self.folder / "network.json"
        return Network(**json.loads(path.read_text())) if path.exists() else None

    def host(self, name: str) -> Host:
        network = self.network()
        if network is None:
            raise Refused(f"fleet {self.name} does not exist; make it with: tools/testhosts up {self.name} {name}")
        return Host(self.folder, name, network)

    def finished_host(self, name: str) -> Host:
        host = self.host(name)
        if host.facts() is None:
            raise Refused(
                f"{name} is no host of fleet {self.name}; make it with: tools/testhosts up {self.name} {name}"
            )
        return host

    def hosts(self) -> list[Host]:
        """Also unfinished ones."""
        folder = self.folder / "hosts"
        return [self.host(path.name) for path in sorted(folder.iterdir())] if folder.exists() else []

    def prepare(self) -> None:
        """Everything hosts share."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        network = self.network()
        if network is None:
            network = net.choose(self.key, net.taken_networks(net.bridge_name(self.key)))
            write_file(self.folder / "network.json", json.dumps(asdict(network)))
        net.raise_network(network)
        make_key(self.folder, self.name)

    def complete(self, name: str, suite: str) -> str:
        """Make, boot or keep one host; says which."""
        host = self.host(name)
        facts = host.facts()
        root = str(root_path(SUITES[suite]))
        if facts is None or facts.root != root:
            public_key = (self.folder / f"{KEY}.pub").read_text()
            number = facts.number if facts else self._free_number()
            host.make(Facts(name, suite, root, number, host_key=""), public_key)
            host.boot()
            return "made"
        if host.process():
            host.connect()
            return "kept"
        host.boot()
        return "booted"

    def publish(self) -> None:
        reachable = [
            Reachable(facts.name, host.network.address(facts.number), facts.host_key)
            for host in self.hosts()
            if (facts := host.facts())
        ]
        write_access(self.access, self.folder / KEY, reachable, self.summary())

    def summary(self) -> dict[str, Any]:
        network = self.network()
        return {
            "fleet": self.name,
            "bridge": network.bridge if network else None,
            "subnet": network.subnet if network else None,
            "hosts": [_host_summary(host) for host in self.hosts()] if network else [],
        }

    def wait_for_ssh(self, names: list[str], timeout_s: float = SSH_TIMEOUT_S) -> None:
        """Until the deploy user can log in to each: more than an open port, and what Ansible needs next."""
        deadline = time.monotonic() + timeout_s
        waiting = list(names)
        while waiting:
            waiting = [name for name in waiting if not self._answers(name)]
            for name in waiting:
                if not self.host(name).process() or time.monotonic() > deadline:
                    raise Refused(self._why_silent(name))
            time.sleep(0.1 if waiting else 0)

    def remove(self) -> None:
        """Also what a cut-off run left: each name follows from the fleet's, so nothing depends on a complete record."""
        for host in self.hosts() if self.network() else []:
            host.ask_to_power_off()
        for host in self.hosts() if self.network() else []:
            host.remove()
        net.remove_network(net.bridge_name(self.key))
        remove_tree(self.folder)
        remove_access(self.access)
        if STATE.exists() and not any(path.is_dir() for path in STATE.iterdir()):
            net.restore_forwarding()
            # Of an earlier version, which turned on all of it; nobody can say who needs that now.
            (STATE / "ip_forward_before").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # an operator may have mounted a file system here
                STATE.rmdir()

    def _free_number(self) -> int:
        taken = {facts.number for host in self.hosts() if (facts := host.facts())}
        free = [number for number in range(FIRST_NUMBER, LAST_NUMBER + 1) if number not in taken]
        if not free:
            raise Refused(f"fleet {self.name} is full: {len(taken)} hosts")
        return free[0]

    def _answers(self, name: str) -> bool:
        command = ["ssh", "-F", str(self.access / "ssh_config"), "-o", "BatchMode=yes", "-o", "ConnectTimeout=2"]
        command += ["-o", "ControlPath=none", name, "true"]
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0

    def _why_silent(self, name: str) -> str:
        host = self.host(name)
        last_lines = "\n".join(host.console().splitlines()[-15:])
        how = "runs, but lets nobody log in" if host.process() else "stopped by itself"
        return (
            f"{last_lines}\n{name} {how}; its last lines are above, all of them in {host.console_log}.\n"
            f"For a fresh one: tools/testhosts down {self.name} {name}, then up again"
        )


def _host_summary(host: Host) -> dict[str, Any]:
    facts, process = host.facts(), host.process()
    if facts is None:
        return {"name": host.name, "state": "unfinished"}
    return {
        "name": facts.name,
        "address": host.network.address(facts.number),
        "address6": host.network.address6(facts.number),
        "suite": facts.suite,
        "state": "running" if process else "off",
        "pid": process.pid if process else None,
    }


def ensure_roots(suites: set[str]) -> None:
    for suite in sorted(suites):
        ensure_root(SUITES[suite])


def suite_of(fleet: Fleet, name: str, suite: str) -> str:
    """What is asked for; else what the host is; else the default."""
    facts = fleet.host(name).facts() if fleet.network() else None
    chosen = suite or (facts.suite if facts else os.environ.get("BEDPLATE_SUITE") or DEFAULT)
    if chosen not in SUITES:
        raise Refused(f"suite {chosen} is unknown; known are {', '.join(SUITES)}")
    return chosen
