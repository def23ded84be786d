"""One host: an overlay over its suite's root, and the systemd-nspawn that runs it, or the qemu that runs a copy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.disposable import cgroups, processes
from tools.disposable.emulated import Machine
from tools.disposable.network import Network, nameservers
from tools.disposable.processes import Process
from tools.disposable.system import (
    Refused,
    mounts_below,
    remove_tree,
    run,
    succeeds,
    systemd_outside,
    wait_until,
    write_file,
)

# A host's own units may drain for 90 s before they let go.
POWEROFF_TIMEOUT_S = 120
# systemd's request to power off (systemd(1), SIGNALS).
POWEROFF_SIGNAL = signal.SIGRTMIN + 4


@dataclass(frozen=True)
class Facts:
    """What is decided when a host is made; in host.json, written last: without it the host is unfinished."""

    name: str
    suite: str
    root: str
    number: int
    host_key: str


class Host:
    def __init__(self, fleet_folder: Path, name: str, network: Network):
        self.folder = fleet_folder / "hosts" / name
        self.name = name
        self.network = network
        self.root = self.folder / "root"
        self._facts_file = self.folder / "host.json"
        self.console_log = self.folder / "console.log"
        # What the machine calls it in process lists and interface names; other fleets have a gpu1 too.
        self.machine = f"{name}-{network.bridge}"
        # The machine's end of the cable, named by nspawn.
        self._interface = f"vb-{self.machine}"
        self._emulated = Machine(self.folder, self.root, self._interface, network.bridge)

    def facts(self) -> Facts | None:
        path = self._facts_file
        return Facts(**json.loads(path.read_text())) if path.exists() else None

    def process(self) -> Process | None:
        return processes.recorded(self.folder / "pid")

    def leader(self) -> Process | None:
        """PID 1 of the host."""
        supervisor = self.process()
        children = supervisor.children() if supervisor else []
        return next((child for child in children if child.is_init()), None)

    def make(self, facts: Facts, public_key: str) -> None:
        self.remove()
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        self._mount(facts.root)
        host_key = self._furnish(facts, public_key)
        write_file(self._facts_file, json.dumps(asdict(facts) | {"host_key": host_key}))

    def boot(self) -> None:
        self._make_ready()
        self._launch(self._command())

    def emulate(self) -> None:
        """Boot a copy of its root as a virtual machine, in its place on the network."""
        self._make_ready()
        self._emulated.make_disk()
        self._emulated.plug_in()
        self._launch(self._emulated.command())

    def _make_ready(self) -> None:
        """Its root in place, with nothing in it of a run before."""
        facts = self.facts()
        if facts is None:
            raise Refused(f"{self.name} is unfinished")
        self._clear_run_state()
        self._mount(facts.root)

    def reset(self) -> None:
        """As its reset button would, or a power cut that is short."""
        if not self._emulated.runs():
            raise Refused(f"{self.name} is no virtual machine that runs; make it one with: tools/testhosts emulate")
        self._emulated.press("system_reset")

    def console(self) -> str:
        return self.console_log.read_text(errors="replace") if self.console_log.exists() else ""

    def connect(self) -> None:
        """A running host whose bridge was deleted and made again hangs loose."""
        run("ip", "link", "set", self._interface, "master", self.network.bridge, "up")

    def ask_to_power_off(self) -> None:
        if self.process() and self._emulated.runs():
            self._emulated.press("system_powerdown")
        leader = self.leader()
        if leader:
            leader.signal(POWEROFF_SIGNAL)

    def stop(self, timeout_s: float) -> None:
        """Ask, wait, then insist."""
        self.ask_to_power_off()
        process = self.process()
        if process and not process.wait_gone(timeout_s):
            process.signal(signal.SIGKILL)
            process.wait_gone(timeout_s=10)
        self._clear_run_state()

    def remove(self) -> None:
        self.stop(timeout_s=10)
        # First: a removal that is cut off must not look like a finished host.
        self._facts_file.unlink(missing_ok=True)
        remove_tree(self.folder)

    def _mount(self, lower: str) -> None:
        if mounts_below(self.root):
            return
        # Set by the kernel on a volatile overlay, against use after a crash; a disposable host takes that risk.
        remove_tree(self.folder / "work/work/incompat")
        layers = f"lowerdir={lower},upperdir={self.folder}/upper,workdir={self.folder}/work"
        # Volatile: fsync costs nothing. These hosts need not survive a power cut of this machine.
        run("mount", "-t", "overlay", "overlay", "-o", f"volatile,{layers}", str(self.root))

    def _furnish(self, facts: Facts, public_key: str) -> str:
        etc = self.root / "etc"
        write_file(etc / "machine-id", f"{uuid.uuid4().hex}\n", 0o444)
        write_file(etc / "hostname", f"{self.name}\n")
        write_file(etc / "hosts", f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n::1 localhost ip6-localhost\n")
        (etc / "resolv.conf").unlink(missing_ok=True)
        write_file(etc / "resolv.conf", "".join(f"nameserver {server}\n" for server in nameservers()))
        write_file(etc / "systemd/network/10-host0.network", self._network_file(facts.number))
        host_key = etc / "ssh/ssh_host_ed25519_key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{self.name}", "-f", str(host_key))
        self._admit_deploy(public_key)
        # The root was built without package lists, but minutes ago: as new as that, apt would be thought up to date.
        os.utime(self.root / "var/lib/apt/lists", (0, 0))
        return host_key.with_suffix(".pub").read_text().strip()

    def _admit_deploy(self, public_key: str) -> None:
        home = self.root / "home/deploy"
        owner = (home.stat().st_uid, home.stat().st_gid)
        ssh = home / ".ssh"
        ssh.mkdir(mode=0o700)
        shutil.chown(ssh, *owner)
        write_file(ssh / "authorized_keys", public_key, 0o600, owner)

    def _network_file(self, number: int) -> str:
        network = self.network
        return (
            "[Match]\nName=host0 eth0\n\n[Network]\n"
            f"Address={network.address(number)}/24\nGateway={network.address(1)}\n"
            f"Address={network.address6(number)}/64\nIPv6AcceptRA=no\nLLDP=no\n"
        )

    def _launch(self, command: list[str]) -> None:
        own = []
        if systemd_outside():
            scope = ["systemd-run", "--scope", "--quiet", "--collect", "--slice=machine.slice"]
            command = [*scope, "--property=Delegate=yes", f"--unit={self._scope()}", "--", *command]
        else:
            own = cgroups.make(self._cgroups())
        processes.launch(command, self.folder / "pid", self.console_log, own)

    def _command(self) -> list[str]:
        return [
            "systemd-nspawn",
            "--boot",
            "--keep-unit",
            "--register=no",
            "--settings=no",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            f"--directory={self.root}",
            f"--machine={self.machine}",
            f"--hostname={self.name}",
            f"--network-bridge={self.network.bridge}",
        ]

    def _clear_run_state(self) -> None:
        """After a killed nspawn the host's own processes live on, unreachable and blocked on a console nobody reads."""
        if self.process():
            raise Refused(f"{self.name} does not stop: pid {self.process()}")
        cgroups.empty(self._cgroups())
        (self.folder / "pid").unlink(missing_ok=True)
        self._emulated.unplug()
        for part in ("propagate", "unix-export"):
            remove_tree(Path("/run/systemd/nspawn") / part / self.machine)
        # The kernel drops the interface a moment after the last process; the next boot wants its name.
        wait_until(lambda: not succeeds("ip", "link", "show", self._interface), f"{self._interface} is still there")

    def _cgroups(self) -> list[Path]:
        return cgroups.paths(f"machine.slice/{self._scope()}" if systemd_outside() else self.machine)

    def _scope(self) -> str:
        return f"bedplate-{self.machine}.scope"
