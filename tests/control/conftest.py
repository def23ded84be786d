"""What the playbooks make on the control machine, beside an inventory without hosts. Needs nothing but Ansible."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
HOSTS = {"localhost": {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}}


class Control:
    """An inventory of its own, with a vault of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.inventory = folder / "inventory"
        self.secrets = self.inventory / "secrets.yml"
        self.authority = self.inventory / "authority"
        self.password = folder / "vault-password"

    def make(self) -> Control:
        self.inventory.mkdir(parents=True)
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": HOSTS}}))
        self.password.write_text("right-password")
        return self

    def run(self, program: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        # molecule names its own roles and configuration there.
        own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        own["BEDPLATE_VAULT_PASSWORD_FILE"] = str(self.password)
        command = [str(BIN / program), *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, env=own, capture_output=True, text=True, check=False, input=stdin, timeout=120
        )

    def prepare(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("ansible-playbook", f"--inventory={self.inventory}", "playbooks/prepare.yml", *options)

    def opened(self) -> dict[str, str]:
        shown = self.run("ansible-vault", "view", str(self.secrets))
        assert shown.returncode == 0, shown.stderr
        return dict(yaml.safe_load(shown.stdout))

    def close(self, secrets: dict[str, str]) -> None:
        """What an operator leaves who edits them."""
        closing = ["encrypt", "--encrypt-vault-id=default", f"--output={self.secrets}"]
        done = self.run("ansible-vault", *closing, stdin=yaml.safe_dump(secrets))
        assert done.returncode == 0, done.stderr


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path).make()


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Control:
    """Prepared once; for copies."""
    control = Control(tmp_path_factory.mktemp("first")).make()
    done = control.prepare()
    assert done.returncode == 0, done.stdout
    return control


@pytest.fixture
def prepared(first: Control, tmp_path: Path) -> Control:
    shutil.copytree(first.folder, tmp_path / "prepared")
    return Control(tmp_path / "prepared")


@pytest.fixture
def changed() -> Callable[[subprocess.CompletedProcess[str]], int]:
    """How many tasks of a run changed something."""
    return lambda run: sum(map(int, re.findall(r"changed=(\d+)", run.stdout)))
