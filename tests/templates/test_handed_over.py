"""What a managed host hands over goes to no other host, and into no setting, before it was looked at."""

from __future__ import annotations

import base64

import pytest
import yaml
from ansible import constants
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager
from conftest import REPOSITORY

KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()
OTHER = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()
# What a host may say, and none of it is one plain key.
HOSTILE = [
    f"{KEY}\n{OTHER}",
    f"{KEY} comment\n{OTHER}",
    f"{KEY}\r\n{OTHER}",
    f"{KEY}\n",
    f"\n{KEY}",
    f'command="/bin/sh" {KEY}',
    f"# {KEY}",
    f"@cert-authority * {KEY}",
    f"* {KEY}",
    KEY[:-1],
    KEY + "A",
    KEY.replace("ssh-ed25519", "ssh-rsa"),
    "ssh-ed25519 " + "A" * 68,
    KEY.replace(" ", "\t"),
    "ssh-ed25519",
    "",
]


def task(file, name):
    tasks = yaml.safe_load((REPOSITORY / "roles/backup/tasks" / file).read_text())
    return next(each for each in tasks if each["name"] == name)


def line_from(evaluate, content, register):
    """line(said, dry_run) → what `content` becomes once the other host has said this, in `register`."""

    def line(said, dry_run=False):
        given = {"inventory_hostname": "gpu1", register: {"stdout": said}, "ansible_check_mode": dry_run}
        return evaluate("backup", content, **given)

    return line


@pytest.fixture
def let_in(evaluate):
    """The line by which the store would let the host in."""
    content = task("store.yml", "Let the host in by its key")["host_files"]["files"][0]["content"]
    return line_from(evaluate, content, "__backup_key")


@pytest.fixture
def known_store(evaluate):
    """The line by which the host would know the store."""
    content = task("configure.yml", "Write the way to the store")["host_files"]["files"][1]["content"]
    return line_from(evaluate, content, "__backup_store_key")


@pytest.mark.parametrize("comment", ["", " backups of gpu1", " from=somewhere,permit-pty"])
def test_the_store_lets_a_host_in_by_one_key_and_words_of_its_own(let_in, comment):
    assert let_in(KEY + comment) == f"restrict {KEY} backups of gpu1\n"


@pytest.mark.parametrize("said", HOSTILE)
def test_a_host_that_hands_over_anything_else_is_refused_by_name(let_in, said):
    with pytest.raises(AnsibleError, match=r"gpu1.*key\.pub.*run the playbook again"):
        let_in(said)


def test_the_key_is_looked_at_before_the_store_is_touched():
    tasks = yaml.safe_load((REPOSITORY / "roles/backup/tasks/store.yml").read_text())
    looked = next(place for place, each in enumerate(tasks) if "__backup_public_key" in str(each))
    touched = next(place for place, each in enumerate(tasks) if "delegate_to" in each)

    assert looked < touched


def test_a_host_knows_the_store_by_one_key(known_store):
    assert known_store(f"{KEY} root@ops1") == f"store {KEY}\n"


@pytest.mark.parametrize("said", HOSTILE)
def test_a_store_that_hands_over_anything_else_is_refused_by_name(known_store, said):
    with pytest.raises(AnsibleError, match=r"ops1.*ssh_host_ed25519_key\.pub.*run the playbook again"):
        known_store(said)


def test_a_dry_run_of_a_new_host_goes_on_without_a_key(let_in, known_store):
    assert let_in("", dry_run=True) == "restrict  backups of gpu1\n"
    assert known_store("", dry_run=True) == "store \n"


def test_a_hosts_facts_set_none_of_the_inventorys_words():
    """Facts go before the inventory: one called backup_directory would say where the store makes folders."""
    assert str(REPOSITORY / "ansible.cfg") == constants.CONFIG_FILE, "run pytest in the root of the repository"
    inventory = InventoryManager(DataLoader(), sources="gpu1,")
    variables = VariableManager(DataLoader(), inventory)
    variables.set_host_facts("gpu1", {"backup_directory": "/etc", "ansible_distribution_release": "bookworm"})

    seen = variables.get_vars(host=inventory.get_host("gpu1"))

    assert "backup_directory" not in seen
    assert seen["ansible_facts"]["distribution_release"] == "bookworm"
