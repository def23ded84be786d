"""site.yml refuses a bare host for everything that is wrong with it, at once and before it changes anything."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fleet_on_trial import REPOSITORY, FleetOnTrial

BIN = Path(sys.executable).parent
HUGE = {"cores": 4096, "memory_gb": 10**6, "disk_gb": 10**6}
# Of everything that lies on the host's disk: names, owners, modes, times; and what stands in /etc.
FINGERPRINT = """#!/bin/sh
find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/log \\
    -o -path /var/lib/systemd \\) -prune -o -printf '%p %m %U:%G %s %T@ %l\\n' | LC_ALL=C sort
find /etc -xdev -type f -exec sha256sum {} + | LC_ALL=C sort
"""
# Root's fingerprint is all that deploy may take without a password.
HARM = """
sed -i s/^VERSION_CODENAME=.*/VERSION_CODENAME=focal/ /etc/os-release
echo 'deb http://packages.invalid/debian bookworm main' > /etc/apt/sources.list
systemd-run --quiet --unit=squatter python3 -m http.server 8001
for second in 1 2 3 4 5 6 7 8 9 10; do ss -Hltn | grep -q :8001 && break; sleep 1; done
cat > /usr/local/sbin/fingerprint && chmod 755 /usr/local/sbin/fingerprint
printf 'deploy ALL=(ALL) ALL\\ndeploy ALL=(root) NOPASSWD: /usr/local/sbin/fingerprint\\n' > /etc/sudoers.d/deploy
"""
HARM_ON_HOST = f"sudo sh -c {shlex.quote(HARM)} << 'END'\n{FINGERPRINT}END\n"
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3 -subj /CN=own"
    " -addext subjectAltName=DNS:bedplate.test -keyout own.key -out own.crt"
)


@pytest.fixture(scope="module")
def fleet():
    fleet = FleetOnTrial("trial-preflight")
    fleet.tool("down")
    fleet.tool("up", "one")
    yield fleet
    fleet.tool("down")


@pytest.fixture
def inventory(fleet, tmp_path):
    """One host that is balancer and serves, small enough for the machine at hand."""
    addresses = json.loads((fleet.access / "addresses.json").read_text())
    control = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    groups = {"lb": {"hosts": {"one": None}}, "inference": {"hosts": {"one": None}}}
    write(tmp_path / "hosts.yml", {"all": {"hosts": {"localhost": control}, "children": groups}})
    settings = {
        "ansible_ssh_common_args": f"-F {fleet.access}/ssh_config",
        "private_address": addresses["one"],
        "preflight_size": "demo",
        "bedplate_bundles": ["digits"],
        "bedplate_bundles_dir": str(tmp_path / "bundles"),
    }
    write(tmp_path / "group_vars/all.yml", settings)
    (tmp_path / "bundles/digits/1").mkdir(parents=True)
    (tmp_path / "bundles/digits/1/SHA256SUMS").write_text("")
    return tmp_path


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content))


def play(playbook, inventory, **more):
    """The run, and the report that it wrote."""
    report = inventory / "report.json"
    command = [BIN / "ansible-playbook", f"--inventory={inventory}", playbook, "-e"]
    command.append(json.dumps({"preflight_report": str(report)} | more))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    return run, json.loads(report.read_text())


def test_a_bare_host_that_does_has_no_findings_before_secrets_and_wheels_are_made(inventory):
    run, report = play("playbooks/preflight.yml", inventory)

    assert run.returncode == 0, run.stdout
    assert report["ok"]
    assert report["hosts"]["one"]["seen"]["release"] == "bookworm"


def test_a_host_that_is_not_reached_is_refused_beside_the_others(inventory):
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text())
    nowhere = {"ansible_host": "127.0.0.1", "ansible_port": 1, "private_address": "10.255.0.2"}
    # The first of the play, which reports for all.
    hosts["all"]["children"]["lb"]["hosts"]["away"] = nowhere
    write(inventory / "hosts.yml", hosts)

    run, report = play("site.yml", inventory)

    assert run.returncode != 0
    assert [name for name, host in report["hosts"].items() if not host["ok"]] == ["away"]
    assert not (inventory / "secrets.yml").exists()


def test_ten_faults_at_once_are_ten_findings_and_nothing_is_changed(fleet, inventory):
    subprocess.run(CERTIFICATE.split(), cwd=inventory, check=True, capture_output=True)
    (inventory / "other-password").write_text("of another vault")
    (inventory / "secrets.yml").write_text("secret_api_key: x\n")
    closing = [f"--vault-password-file={inventory}/other-password", "--encrypt-vault-id=default"]
    command = [BIN / "ansible-vault", "encrypt", *closing, inventory / "secrets.yml"]
    subprocess.run(command, cwd=inventory, check=True, capture_output=True)
    settings = {
        "preflight_sizes": {"demo": HUGE},
        "bedplate_engines": ["gpu0"],
        "nginx_certificate_file": f"{inventory}/own.crt",
        "nginx_certificate_key_file": f"{inventory}/own.key",
    }
    harmed = fleet.ssh("one", HARM_ON_HOST)
    assert harmed.returncode == 0, harmed.stderr
    before = fleet.ssh("one", "sudo -n /usr/local/sbin/fingerprint")
    assert len(before.stdout.splitlines()) > 1000, before.stderr

    run, report = play("site.yml", inventory, **settings)

    after = fleet.ssh("one", "sudo -n /usr/local/sbin/fingerprint")
    findings = [one for host in report["hosts"].values() for one in host["findings"]]
    wanted = ["certificate", "cores", "disk", "gpu", "memory", "name", "port", "release", "secrets", "sudo"]
    assert sorted(one["check"] for one in findings) == wanted
    assert all(one["found"] and one["wanted"] and one["next_step"] for one in findings)
    assert not report["ok"]
    assert run.returncode != 0
    assert "changed=0" in run.stdout
    assert "changed=1" not in run.stdout
    assert not (inventory / "authority").exists()
    assert after.stdout == before.stdout
