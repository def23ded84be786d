"""Who may change a fleet: one run, that is named to the next, and nobody for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import run_lease
from run_lease import Held, Lease, owner_of


@pytest.fixture
def other():
    """A process of this machine that holds leases."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def elsewhere(name="anna@laptop"):
    """A run of another control machine, whose processes nobody sees here."""
    return owner_of(os.getpid(), ["ansible-playbook", "site.yml"]) | {"run": name, "who": name, "place": name}


def held(folder):
    return json.loads((folder / run_lease.NAME).read_text())


def test_the_second_of_two_runs_is_told_whose_the_first_is_and_what_to_do(tmp_path):
    Lease(tmp_path).take(elsewhere(), 60)

    with pytest.raises(Held) as refused:
        Lease(tmp_path).take(elsewhere("berta@desk"), 60)

    assert str(refused.value).startswith("anna@laptop runs site.yml on this fleet since 20")
    assert "ends at 20" in str(refused.value)
    assert "-e lease_take=true" in str(refused.value)
    assert held(tmp_path)["who"] == "anna@laptop"


def test_of_many_at_once_one_has_it(tmp_path):
    def take(number):
        try:
            Lease(tmp_path).take(elsewhere(f"run-{number}"), 60)
        except Held:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(take, range(64))) == 1
    assert os.listdir(tmp_path) == [run_lease.NAME]


def test_one_that_was_not_renewed_ends_by_itself(tmp_path):
    Lease(tmp_path).take(elsewhere(), 0)

    Lease(tmp_path).take(elsewhere("berta@desk"), 60)

    assert held(tmp_path)["who"] == "berta@desk"


def test_its_owner_renews_it_and_keeps_its_beginning(tmp_path):
    Lease(tmp_path).take(elsewhere(), 1)
    before = held(tmp_path)

    Lease(tmp_path).take(elsewhere(), 60)

    after = held(tmp_path)
    assert after["since"] == before["since"]
    assert after["ends"] > before["ends"]


def test_a_process_that_lives_keeps_it_and_a_dead_one_never_blocks_the_next(tmp_path, other):
    mine = owner_of(os.getpid(), ["ansible-playbook", "playbooks/balancer.yml"])
    Lease(tmp_path).take(owner_of(other.pid, ["ansible-playbook", "site.yml"]), 0)
    with pytest.raises(Held, match=f"it runs here as process {other.pid}"):
        Lease(tmp_path).take(mine, 60)

    other.kill()
    other.wait()
    Lease(tmp_path).take(mine, 60)

    assert held(tmp_path)["playbook"] == "balancer.yml"


def test_the_fleet_is_told_of_every_run_that_this_machine_knows_to_be_over(tmp_path, other):
    """The second died before it could take the fleet's."""
    here, fleet = Lease(tmp_path / "here"), Lease(tmp_path / "fleet")
    first, second = owner_of(other.pid, []), owner_of(other.pid, []) | {"run": "second"}
    fleet.take(first | {"place": "not seen from a host"}, 60, here.take(first, 60))
    other.kill()
    other.wait()
    here.take(second, 60)

    third = owner_of(os.getpid(), [])
    over = here.take(third, 60)
    fleet.take(third, 60, over)

    assert over == [first["run"], "second"]
    assert held(tmp_path / "fleet")["run"] == third["run"]


def test_what_it_remembers_of_dead_runs_is_bounded(tmp_path):
    for number in range(run_lease.REMEMBERED + 5):
        over = Lease(tmp_path).take(elsewhere(f"run-{number}"), 0)

    assert len(over) == run_lease.REMEMBERED


def test_who_knows_that_a_run_is_over_takes_it(tmp_path):
    Lease(tmp_path).take(elsewhere(), 60)

    Lease(tmp_path).take(elsewhere("berta@desk"), 60, force=True)

    assert held(tmp_path)["who"] == "berta@desk"


def test_it_is_ended_by_its_owner_alone(tmp_path):
    Lease(tmp_path).take(elsewhere(), 60)

    Lease(tmp_path).end(elsewhere("berta@desk"))
    assert held(tmp_path)["who"] == "anna@laptop"
    Lease(tmp_path).end(elsewhere())
    Lease(tmp_path).end(elsewhere())

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"run": 1}', "\x00\xff"])
def test_a_damaged_file_is_nobodys(tmp_path, text):
    (tmp_path / run_lease.NAME).write_text(text)

    Lease(tmp_path).take(elsewhere(), 60)

    assert held(tmp_path)["who"] == "anna@laptop"


def test_the_owner_is_the_ansible_playbook_above_the_module(tmp_path):
    script = tmp_path / run_lease.PROGRAM
    ask = tmp_path / "ask.py"
    ask.write_text(
        f"import json, sys\nsys.path[:0] = {sys.path!r}\nimport run_lease\nprint(json.dumps(run_lease.this_run()))\n"
    )
    script.write_text("import subprocess, sys\nsubprocess.run(['sh', '-c', sys.argv[-1]], check=True)\n")
    command = [sys.executable, str(script), "-i", "fleet", "playbooks/data.yml", f"{sys.executable} {ask}; true"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        said = json.loads(process.communicate()[0])

    assert (said["pid"], said["playbook"]) == (process.pid, "data.yml")
