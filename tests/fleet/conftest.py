"""A fleet that site.yml built: molecule's, or the one BEDPLATE_FLEET names (`demo`)."""

import os
import shutil
import subprocess
import time

import pytest

from tools.deployment import ROOT, Deployment
from tools.heldout import PREDICT, read_cases

CASE = read_cases()[0]
# What a copy needs to run playbooks; the rest is read from where it is.
TREE = ["ansible.cfg", "library", "playbooks", "plugins", "roles", "site.yml", "templates"]


@pytest.fixture(scope="session")
def fleet():
    return Deployment(os.environ.get("BEDPLATE_FLEET", "molecule"))


@pytest.fixture
def ask(fleet):
    """ask(method, path, body, Header_Name=value) → Answer, with the right key unless told otherwise."""
    connection = fleet.connect()

    def ask(method, path, body=None, **headers):
        return fleet.ask(connection, method, path, body, **headers)

    yield ask
    connection.close()


@pytest.fixture
def predicts(fleet):
    """predicts() → whether one prediction, asked on a connection of its own, is right."""

    def predicts():
        connection = fleet.connect()
        try:
            answer = fleet.ask(connection, "POST", PREDICT, CASE.file.read_bytes(), Content_Type="image/png")
            return answer.status == 200 and answer.json["predictions"][0]["label"] == CASE.offline
        except OSError:
            return False
        finally:
            connection.close()

    return predicts


@pytest.fixture
def secrets_in(fleet):
    """secrets_in(text) → names of the fleet's secrets that stand in it."""

    def secrets_in(text):
        return [name for name, value in fleet.secrets.items() if value in text]

    return secrets_in


@pytest.fixture(scope="session")
def wait_until():
    """wait_until(condition, timeout_s) → seconds that it took."""

    def wait_until(condition, timeout_s):
        started = time.monotonic()
        while not condition():
            assert time.monotonic() < started + timeout_s, f"not so after {timeout_s} s"
            time.sleep(0.05)
        took_s = time.monotonic() - started
        assert took_s <= timeout_s, f"so after {took_s:.1f} s only, wanted {timeout_s} s"
        return took_s

    return wait_until


@pytest.fixture
def tree(tmp_path):
    """A copy of what playbooks are made of, to plant faults in; wheels and bundles stay where they are."""
    for name in TREE:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    for name in ("tools", "build", "wheelhouse", "service", "locks", ".bedplate", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture(scope="session")
def testhosts(fleet):
    """testhosts("boot", "gpu1") → output of the tool that makes and stops the hosts."""

    def testhosts(verb, *arguments):
        command = [ROOT / "tools/testhosts", verb, fleet.fleet, *arguments]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    return testhosts
