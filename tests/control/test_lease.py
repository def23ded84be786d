"""Two runs at once from one control machine, by the playbooks themselves."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from run_lease import Lease, owner_of


@pytest.fixture
def at_work(prepared):
    """Another run that has the lease of the same inventory."""
    process = subprocess.Popen(["sleep", "120"])
    Lease(prepared.inventory).take(owner_of(process.pid, ["ansible-playbook", "site.yml"]), 60)
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_with_the_firsts_name_until_that_is_dead(prepared, at_work):
    refused = prepared.prepare()
    dry = prepared.prepare("--check")
    at_work.kill()
    at_work.wait()
    taken = prepared.prepare()

    said = " ".join(refused.stdout.split())
    assert refused.returncode != 0
    assert "runs site.yml on this fleet since" in said
    assert f"it runs here as process {at_work.pid}" in said
    assert dry.returncode == 0, dry.stdout
    assert taken.returncode == 0, taken.stdout
    assert not (prepared.inventory / ".lease").exists()


def test_an_inventory_with_the_old_name_of_a_group_is_refused_before_the_lease(control):
    """Plays of the group inference would pass by its hosts without a word."""
    listed = yaml.safe_load((control.inventory / "hosts.yml").read_text())
    listed["all"]["children"] = {"gpu": {"hosts": {"gpu1": {"ansible_connection": "local"}}}}
    (control.inventory / "hosts.yml").write_text(yaml.safe_dump(listed))

    refused = control.run("ansible-playbook", f"--inventory={control.inventory}", "playbooks/inference.yml")

    said = " ".join(refused.stdout.split())
    assert refused.returncode != 0
    assert "Rename it, and group_vars/gpu.yml to group_vars/inference.yml" in said
    assert refused.stdout.count("PLAY [") == 1
    assert not (control.inventory / ".lease").exists()
