"""What the tool promises to demo, molecule and the fleet tests, asked of real hosts."""

import subprocess
import time
from pathlib import Path

import pytest
from fleet_on_trial import TOOL, as_root

from tools.disposable.system import wait_until


def traces_of(summary, fleet):
    """Everything on this machine that names the fleet."""
    bridge = summary["bridge"]
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if f"/{fleet.name}-" in line]
    found += [line for line in output("ip", "-br", "link").splitlines() if bridge in line]
    found += [line for line in output("nft", "list", "tables").splitlines() if bridge in line]
    found += [line for line in output("ps", "-e", "-o", "args").splitlines() if bridge in line]
    folders = [Path("/sys/fs/cgroup"), Path("/run/systemd/nspawn"), Path("/var/lib/bedplate-hosts")]
    found += [line for folder in folders for line in output("find", str(folder)).splitlines() if bridge in line]
    found += [str(path) for path in Path("/var/lib/bedplate-hosts").glob(f"{fleet.name}-????")]
    return found + [str(path) for path in [fleet.access] if path.exists()]


def output(*command):
    # find meets processes and groups that end while it looks.
    return subprocess.run([*as_root(), *command], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("host", ["one", "two"])
def test_host_lets_deploy_in_and_become_root(fleet, host):
    answer = fleet.ssh(host, "hostname; hostname -f; sudo -n id -u; cat /proc/1/comm")

    assert answer.stdout.split() == [host, host, "0", "systemd"], answer.stderr


def test_hosts_have_identities_of_their_own(fleet):
    commands = "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub"

    identities = [line for host in ("one", "two") for line in fleet.ssh(host, commands).stdout.splitlines()]

    assert len(identities) == len(set(identities)) == 4


def test_host_boots_without_a_failed_unit(fleet):
    assert fleet.ssh("one", "systemctl is-system-running --wait; systemctl --failed --no-legend").stdout == "running\n"


def test_host_refuses_another_key_and_passwords(fleet, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    address = fleet.status()["one"]["address"]
    options = ["-F", "none", "-i", tmp_path / "key", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
    options += ["-o", f"UserKnownHostsFile={fleet.access / 'known_hosts'}"]

    answer = subprocess.run(["ssh", *options, f"deploy@{address}", "true"], capture_output=True, text=True, check=False)

    assert "Permission denied" in answer.stderr


def test_host_reaches_its_package_registry(fleet):
    answer = fleet.ssh("one", "sudo apt-get update --error-on=any")

    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_hosts_reach_each_other_on_both_protocols(fleet):
    two = fleet.status()["two"]
    probe = "timeout 5 bash -c 'head -c4 < /dev/tcp/{}/22'"

    assert fleet.ssh("one", probe.format(two["address"])).stdout == "SSH-"
    assert fleet.ssh("one", probe.format(two["address6"])).stdout == "SSH-"


def test_up_again_keeps_hosts_that_run(fleet):
    before = fleet.status()

    fleet.tool("up", "one", "two")

    assert fleet.status() == before


def test_host_whose_supervisor_was_killed_comes_back_with_its_disk(fleet):
    fleet.ssh("one", "echo kept > note; sync")
    subprocess.run([*as_root(), "kill", "-KILL", str(fleet.status()["one"]["pid"])], check=True)
    assert fleet.status()["one"]["state"] == "off"

    fleet.tool("up", "one", "two")

    assert fleet.ssh("one", "cat note; systemctl is-system-running --wait").stdout.split() == ["kept", "running"]


def test_host_powered_off_and_booted_keeps_its_disk_and_address(fleet):
    before = fleet.status()["two"]
    fleet.ssh("two", "echo kept > note")

    fleet.tool("poweroff", "two")
    off = fleet.status()["two"]
    fleet.tool("boot", "two")

    assert off["state"] == "off"
    assert fleet.ssh("two", "cat note").stdout == "kept\n"
    assert fleet.status()["two"]["address"] == before["address"]


def test_fleet_comes_back_after_what_a_reboot_of_the_machine_takes(fleet):
    bridge = fleet.summary()["bridge"]
    fleet.ssh("one", "echo kept > note")
    fleet.tool("poweroff", "one")
    fleet.tool("poweroff", "two")
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f"/{fleet.name}-" in line]
    subprocess.run([*as_root(), "umount", *mounts], check=True)
    subprocess.run([*as_root(), "ip", "link", "delete", bridge], check=True)

    fleet.tool("up", "one", "two")

    assert len(mounts) == 2
    assert fleet.ssh("one", "cat note").stdout == "kept\n"


def test_lost_network_is_made_again(fleet):
    bridge = fleet.summary()["bridge"]
    subprocess.run([*as_root(), "ip", "link", "delete", bridge], check=True)
    subprocess.run([*as_root(), "nft", "delete", "table", "inet", bridge], check=True)

    fleet.tool("up", "one", "two")

    assert fleet.ssh("one", "getent hosts deb.debian.org").returncode == 0


def test_access_files_are_written_again_with_the_same_key(fleet):
    key = (fleet.access / "id_ed25519").read_text()
    for path in fleet.access.iterdir():
        path.unlink()

    fleet.tool("up", "one", "two")

    assert (fleet.access / "id_ed25519").read_text() == key
    assert fleet.ssh("one", "true").returncode == 0


def test_second_fleet_has_a_network_of_its_own_and_cannot_call_the_first(fleet, other_fleet):
    other_fleet.tool("up", "one")
    address = fleet.status()["one"]["address"]

    probe = other_fleet.ssh("one", f"timeout 1 bash -c 'head -c4 < /dev/tcp/{address}/22'")
    other_fleet.tool("down")

    assert other_fleet.access.exists() is False
    assert probe.stdout == ""
    assert fleet.ssh("one", "true").returncode == 0


@pytest.mark.parametrize("after_s", [0.2, 0.5])
def test_up_and_down_cope_with_a_run_that_was_cut_off(fleet, other_fleet, after_s):
    cut_off = other_fleet.start("up", "one", "two")
    time.sleep(after_s)
    cut_off.kill()
    cut_off.wait()

    other_fleet.tool("up", "one", "two")
    summary = other_fleet.summary()
    answers = [other_fleet.ssh(host, "hostname").stdout.strip() for host in ("one", "two")]
    cut_off = other_fleet.start("down")
    time.sleep(after_s / 2)
    cut_off.kill()
    cut_off.wait()
    other_fleet.tool("down")

    assert answers == ["one", "two"]
    assert traces_of(summary, other_fleet) == []


def test_removing_one_host_keeps_the_others(fleet, other_fleet):
    other_fleet.tool("up", "one", "two")

    other_fleet.tool("down", "one")

    assert list(other_fleet.status()) == ["two"]
    assert other_fleet.ssh("two", "hostname").stdout == "two\n"


def test_down_leaves_nothing_and_may_be_repeated(other_fleet):
    other_fleet.tool("up", "one")
    summary = other_fleet.summary()
    assert len(traces_of(summary, other_fleet)) > 5
    subprocess.run([*as_root(), "kill", "-KILL", str(other_fleet.status()["one"]["pid"])], check=True)

    other_fleet.tool("down")
    other_fleet.tool("down")

    assert traces_of(summary, other_fleet) == []


def test_unknown_suite_is_refused_with_the_known_ones(other_fleet):
    refused = other_fleet.tool("up", "one:sarge", check=False)

    assert refused.returncode == 1
    assert "sarge is unknown; known are bullseye, bookworm, trixie, jammy, noble, resolute" in refused.stderr


def test_missing_programs_are_named_with_their_packages():
    command = [*as_root(), "env", "PATH=/nonexistent", "/usr/bin/python3", str(TOOL), "status", "trial"]

    refused = subprocess.run(command, capture_output=True, text=True, check=False)

    assert refused.returncode == 1
    assert "missing on this machine: mmdebstrap, systemd-nspawn" in refused.stderr
    assert "apt-get install" in refused.stderr
    assert "systemd-container" in refused.stderr


def test_a_container_has_no_reset_button(fleet):
    refused = fleet.tool("reset", "one", check=False)

    assert refused.returncode == 1
    assert "one is no virtual machine that runs" in refused.stderr


def test_console_tells_what_a_host_wrote(fleet):
    assert "Welcome to" in fleet.tool("console", "one").stdout


def test_outsider_reaches_hosts_from_an_address_that_is_no_hosts(fleet):
    hosts = fleet.status()
    probe = "head -c4 < /dev/tcp/{}/22; echo; ip -brief address show out0"

    answers = [
        fleet.tool("outside", "--", "bash", "-c", probe.format(hosts["one"][protocol])).stdout
        for protocol in ("address", "address6")
    ]

    assert [answer.split()[0] for answer in answers] == ["SSH-", "SSH-"]
    assert not any(f"{host['address']}/" in answers[0] for host in hosts.values())
    # The kernel takes a namespace apart in its own time.
    cable = f"vo-{fleet.summary()['bridge'][-4:]}-"
    wait_until(lambda: cable not in output("ip", "-br", "link"), "the outsider's cable is still there")


def test_outsider_passes_on_the_exit_status(fleet):
    assert fleet.tool("outside", "--", "sh", "-c", "exit 7", check=False).returncode == 7
