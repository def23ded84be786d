"""Two runs at once from one control machine, by the playbooks themselves."""

from __future__ import annotations

import subprocess

import pytest
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
