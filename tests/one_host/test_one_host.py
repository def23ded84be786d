"""One host that is balancer, inference, data and ops: what it answers, what it lets in, and what it cannot do alone."""

import json
import subprocess

import pytest

from tools.demo import predict_all
from tools.deployment import ROOT, Deployment
from tools.heldout import load, read_cases


@pytest.fixture(scope="module")
def one():
    return Deployment("molecule", "host1", "host1", ROOT / ".bedplate/molecule/one-host")


def test_every_picture_is_answered_as_offline(one):
    assert predict_all(one, read_cases())


def test_it_is_as_declared(one):
    run = one.playbook("check.yml")

    assert run.returncode == 0, run.stdout


def test_from_outside_only_what_is_for_the_world_is_open(one):
    scan = ["nmap", "-n", "-Pn", "-p-", "-T5", "--min-rate=15000", "--max-retries=2", "-oG", "-", one.address]

    command = [ROOT / "tools/testhosts", "outside", one.fleet, "--", *scan]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    [ports] = [line.split("Ports: ")[1].split("\t")[0] for line in said.splitlines() if "Ports: " in line]
    assert {port.split("/")[0]: port.split("/")[1] for port in ports.split(", ")} == {
        "22": "open",
        "80": "open",
        "443": "open",
    }
    assert "Ignored State: filtered" in said


def test_its_front_ends_listen_for_its_own_nginx_only(one):
    listening = one.ssh("host1", "ss --listening --numeric --tcp --no-header | awk '{print $4}'").split()

    assert {each for each in listening if each.endswith((":8001", ":8002"))} == {"127.0.0.1:8001", "127.0.0.1:8002"}


def test_a_restart_fails_no_request(one):
    with load(one, rate=20, seconds=12) as records:
        run = one.playbook("restart.yml")

    assert run.returncode == 0, run.stdout
    assert len(records) == 240
    assert [record for record in records if record.failed] == []


def test_it_is_not_drained_since_nothing_would_be_left(one):
    run = one.playbook("drain.yml", "-e", "host=host1")

    assert run.returncode != 0
    assert "host1 is the only inference host" in run.stdout
    assert predict_all(one, read_cases()[:6])


def test_preflight_says_that_its_backups_do_not_survive_it(one):
    run = one.playbook("preflight.yml")

    assert run.returncode == 0, run.stdout
    assert "warn backup: backups lie on the host itself" in run.stdout


def test_it_serves_the_form_that_it_found_best(one):
    record = json.loads(one.ssh("host1", "cat /var/lib/bedplate/prepared/digits/1/*/record.json"))
    told = json.loads(one.ssh("host1", "/opt/bedplate/current/bin/bedplate models list --json"))
    figures = {figure["name"]: figure for figure in record["figures"]}

    [row] = told["models"]

    assert figures[row["form"]]["refused"] == ""
    assert figures["float32"]["accuracy"] - figures[row["form"]]["accuracy"] <= 0.005
    # Native code was built here, whoever won.
    assert figures["float32-compiled"]["items_per_s"] > 0


def test_no_engine_can_write_what_engines_run(one):
    find = "find /var/lib/bedplate/prepared -writable"

    as_engine = one.ssh("host1", f"sudo -u bedplate-engine {find}").split()
    as_writer = one.ssh("host1", f"sudo -u bedplate-optimize {find}").split()

    assert as_engine == []
    assert any(path.endswith("record.json") for path in as_writer)
