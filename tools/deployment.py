"""A deployed fleet as its users meet it: a name, an address, an authority, a key. For the demo and the fleet tests."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import ssl
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from bedplate.commands.client import VerifiedConnection

ROOT = Path(__file__).resolve().parent.parent
INVENTORIES = {"molecule": ROOT / "molecule/inventory", "demo": ROOT / "inventory/demo"}  # by fleet
SERVER_NAME = "bedplate.test"  # the default of nginx_server_name


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Deployment:
    """Test hosts by their fleet's name, as one of INVENTORIES describes them unless another is given.

    Args:
        patience_s: how long a host may take to say anything over SSH.
    """

    def __init__(
        self,
        fleet: str,
        balancer: str = "lb1",
        data_host: str = "ops1",
        inventory: Path | None = None,
        patience_s: int = 5,
    ):
        self.fleet = fleet
        self.inventory = inventory or INVENTORIES[fleet]
        self._balancer = balancer
        self._data_host = data_host
        self._patience_s = patience_s

    @cached_property
    def address(self) -> str:
        """Of the balancer."""
        return self.address_of(self._balancer)

    def address_of(self, host: str) -> str:
        return str(json.loads((ROOT / ".bedplate" / self.fleet / "addresses.json").read_text())[host])

    @cached_property
    def secrets(self) -> dict[str, str]:
        """What the vault of the inventory holds, by name."""
        vault = str(Path(sys.executable).parent / "ansible-vault")
        command = [vault, "view", str(self.inventory / "secrets.yml")]
        shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return dict(yaml.safe_load(shown.stdout))

    @property
    def api_key(self) -> str:
        return self.secrets["secret_api_key"]

    @property
    def authority(self) -> Path:
        return self.inventory / "authority" / "ca.crt"

    def connect(self) -> http.client.HTTPSConnection:
        """Goes to the balancer's address, but asks for and verifies the server name, which no resolver knows."""
        context = ssl.create_default_context(cafile=str(self.authority))
        return VerifiedConnection(SERVER_NAME, None, self.address, 60, context)

    def ask(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        **headers: str,
    ) -> Answer:
        """One request with the key, answered by a model and not from memory.

        A header's name is written with _ for -, and an empty one is left out.
        """
        given = {"Authorization": f"Bearer {self.api_key}", "Cache-Control": "no-cache"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request(method, path, body, {name: value for name, value in given.items() if value})
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())

    def ssh(self, host: str, command: str, stdin: str = "") -> str:
        """Run as root on a host of the fleet; returns its output.

        Args:
            stdin: where secrets go: sudo logs the command.

        Raises:
            subprocess.CalledProcessError: with the output, when the command failed.
        """
        line = [*self._ssh_command(), host, f"sudo sh -c {shlex.quote(command)}"]
        return subprocess.run(line, check=True, capture_output=True, text=True, input=stdin).stdout

    def redis(self, *commands: str) -> str:
        """What the response cache answers an operator, a line for each command."""
        login = f"AUTH admin {self.secrets['secret_redis_cache_admin']}"
        address = self.address_of(self._data_host)
        answers = self.ssh(self._data_host, f"redis-cli -h {address}", stdin="\n".join([login, *commands, ""]))
        return answers.removeprefix("OK\n")

    def hang_up(self, host: str) -> None:
        """Forget the connection to a host that is about to go down."""
        subprocess.run([*self._ssh_command(), "-O", "exit", host], check=False, capture_output=True)

    def _ssh_command(self) -> list[str]:
        """One connection for many commands: the firewall holds off who connects too often."""
        sockets = Path.home() / ".ansible" / "cp"
        sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        shared = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60s", "-o", f"ControlPath={sockets}/bedplate-%C"]
        patience = [f"-o{option}={self._patience_s}" for option in ("ServerAliveInterval", "ConnectTimeout")]
        config = ROOT / ".bedplate" / self.fleet / "ssh_config"
        return ["ssh", "-F", str(config), *shared, *patience]

    def playbook(self, name: str, *arguments: str, tree: Path = ROOT) -> subprocess.CompletedProcess[str]:
        """Run a playbook, `check.yml` or `../site.yml`, on the fleet; its inventory unless `arguments` give another.

        Args:
            tree: the repository, or a copy of it.
        """
        program = str(Path(sys.executable).parent / "ansible-playbook")
        own = [] if any(each.startswith("--inventory") for each in arguments) else [f"--inventory={self.inventory}"]
        command = [program, *own, str(Path("playbooks", name)), *arguments]
        # molecule names its own roles and configuration there; those of `tree` are wanted.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
