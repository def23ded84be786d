"""What every host must be, whatever runs on it."""

from __future__ import annotations

import re
import uuid

import pytest

testinfra_hosts = ["ssh://lb1", "ssh://gpu1"]


def test_a_login_without_a_key_is_refused(ssh):
    attempt = ssh("-o", "PubkeyAuthentication=no", "-o", "ControlPath=none", "-o", "BatchMode=yes")

    assert attempt.returncode == 255
    assert "Permission denied (publickey)" in attempt.stderr


def test_ssh_forwards_no_connections(ssh):
    attempt = ssh("-o", "ControlPath=none", "-W", "127.0.0.1:22")

    assert attempt.returncode == 255
    assert "administratively prohibited" in attempt.stderr


@pytest.mark.parametrize("user", ["root", "deploy"])
def test_sshd_takes_neither_root_nor_many_guesses(host, user):
    settings = dict(
        line.split(" ", 1) for line in host.check_output(f"sshd -T -C user={user},host=x,addr=192.0.2.1").splitlines()
    )

    assert settings["permitrootlogin"] == "no"
    assert settings["authenticationmethods"] == "publickey"
    assert int(settings["maxauthtries"]) <= 4


def test_no_rollback_is_left_armed_for_sshd(host):
    assert "bedplate-ssh-rollback" not in host.check_output("systemctl list-units --all --no-legend 'bedplate-ssh*'")


def test_time_is_synchronised_by_chrony(host):
    assert host.service("chrony").is_enabled
    # A container may not set the clock: there systemd skips the unit, and the machine below it keeps the time.
    if host.run("systemd-detect-virt --container --quiet").rc == 0:
        assert host.check_output("systemctl show chrony --property=ConditionResult") == "ConditionResult=no"
    else:
        assert "Leap status     : Normal" in host.check_output("chronyc tracking")


def test_the_journal_is_kept_and_capped(host):
    newest = host.check_output(
        "journalctl --no-pager --unit=systemd-journald.service --grep='System Journal' --lines=1"
    )

    assert "/var/log/journal/" in newest
    assert re.search(r"max 1(\.0)?G", newest)


def test_what_is_said_now_is_there_after_a_boot(host):
    marker = uuid.uuid4().hex
    host.check_output(f"echo {marker} | systemd-cat --identifier=bedplate-test && journalctl --sync")

    assert marker in host.check_output("journalctl --directory=/var/log/journal --lines=50 --identifier=bedplate-test")


def test_the_journal_is_kept_for_weeks(host):
    settings = host.check_output("systemd-analyze cat-config systemd/journald.conf")

    kept = re.findall(r"^MaxRetentionSec=(\S+)", settings, re.MULTILINE)[-1]
    assert int(re.search(r"μs: (\d+)", host.check_output(f"systemd-analyze timespan {kept}"))[1]) >= 14 * 86400 * 10**6


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("kernel.yama.ptrace_scope", "1"),
        ("fs.suid_dumpable", "0"),
        ("net.ipv4.tcp_syncookies", "1"),
        ("net.ipv4.conf.all.rp_filter", "1"),
        ("net.ipv4.conf.default.rp_filter", "1"),
        ("net.ipv4.conf.all.accept_redirects", "0"),
        ("net.ipv6.conf.all.accept_redirects", "0"),
    ],
)
def test_the_kernel_guards_processes_and_addresses(host, setting, wanted):
    # What belongs to the whole machine is not a container's to change.
    if not setting.startswith("net.") and host.run("systemd-detect-virt --container --quiet").rc == 0:
        assert f"{setting} = {wanted}\n" in host.file("/etc/sysctl.d/60-bedplate.conf").content_string
    else:
        assert host.check_output(f"cat /proc/sys/{setting.replace('.', '/')}") == wanted


def test_all_units_are_well(host):
    assert host.check_output("systemctl list-units --failed --no-legend") == ""
