"""What the backups of each host are told, and how they are fenced in."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import host_files
import pytest
import yaml
from conftest import REPOSITORY
from exposure import assert_exposure, needs_systemd

from tools.preflight.settings import DERIVED

LEAVE = Path(__file__).resolve().parents[2] / "roles/backup/files/leave-store"

SECRET = {"secret_backup": "x" * 43}


@pytest.fixture
def settings(render):
    def of(host, here, **overrides):
        variables = {"inventory_hostname": host, "group_names": here} | overrides
        return json.loads(render("backup", "etc/bedplate/backup.json.j2", **variables))

    return of


@pytest.fixture
def unit(render):
    return lambda host="gpu1", **more: render(
        "backup", "etc/systemd/system/bedplate-backup@.service.j2", inventory_hostname=host, **more
    )


def test_hosts_go_to_the_store_over_sftp_and_the_store_to_its_own_disk(settings):
    other, store = settings("gpu1", ["inference"]), settings("ops1", ["ops", "data"])

    assert (other["repository"], bool(other["ssh_config"])) == ("sftp:store:/repository", True)
    assert (store["repository"], store["ssh_config"]) == ("/srv/bedplate-backup/store-ops1/repository", "")


def test_without_an_ops_host_backups_lie_in_a_folder(settings):
    found = settings("gpu1", ["inference"], groups={"all": ["gpu1"], "inference": ["gpu1"]})

    assert found["repository"] == "/srv/bedplate-backup/store-gpu1/repository"


def test_s3_has_its_keys_in_a_file(settings):
    found = settings("gpu1", ["inference"], backup_target="s3", backup_s3_url="https://s3.example.org/bucket")

    assert found["repository"] == "s3:https://s3.example.org/bucket/gpu1"
    assert found["environment"] == {"AWS_SHARED_CREDENTIALS_FILE": "/etc/bedplate/credentials/backup-s3"}


@pytest.mark.parametrize(
    ("groups", "parts"),
    [
        (["lb"], {"configuration": ["/etc/bedplate", "/etc/nginx"], "state": ["/var/lib/bedplate-balancer"]}),
        (["inference"], {"configuration": ["/etc/bedplate"], "bundles": ["/var/lib/bedplate/models"]}),
        (
            ["data", "ops"],
            {
                "configuration": ["/etc/bedplate", "/etc/prometheus", "/etc/redis"],
                "sealed": ["/var/lib/bedplate-sealed"],
                "state": ["/var/lib/prometheus/alertmanager"],
            },
        ),
    ],
)
def test_a_host_backs_up_what_its_groups_have(settings, groups, parts):
    assert settings("host1", groups)["parts"] == parts


def test_the_policy_is_the_operators(settings):
    keep = settings("gpu1", ["inference"], backup_keep_daily=3, backup_keep_weekly=2, backup_keep_monthly=1)["keep"]

    assert keep == {"daily": 3, "weekly": 2, "monthly": 1}


def test_every_host_has_a_password_of_its_own_that_is_not_the_secret(evaluate):
    passwords = {
        evaluate("backup", "{{ __backup_password }}", inventory_hostname=host, **SECRET) for host in ("gpu1", "gpu2")
    }

    assert len(passwords) == 2
    assert all(re.fullmatch("[0-9a-f]{64}", password) for password in passwords)


@pytest.mark.parametrize("name", ["gpu1", "gpu.1", "GPU1", "gpu_ä", "x" * 60])
def test_preflight_and_the_role_make_the_same_name_for_the_store(evaluate, name):
    its = {"inventory_hostname": name, "groups": {"all": [name], "inference": [name]}}

    assert evaluate("backup", "{{ __backup_user }}", **its) == DERIVED[0].make(name)
    assert evaluate("backup", "{{ __backup_users | first }}", **its) == DERIVED[0].make(name)


STAND_INS = {
    "getent": """case "$1 $2" in
    "group bedplate-backup") echo "bedplate-backup:x:990:store-gpu1,store-gone,store-gpu10" ;;
    *) echo "$2" ;;
esac""",
    "userdel": 'echo "userdel $1" >&2',
    "chown": 'echo "chown $*" >&2',
}


def test_a_host_that_is_gone_can_no_longer_log_in_at_the_store_and_its_backups_stay(tmp_path):
    keys, backups = tmp_path / "keys", tmp_path / "backups"
    for user in ("store-gpu1", "store-gpu10", "store-gone", "store-half", "of-the-operator"):
        (backups / user / "repository").mkdir(parents=True)
        (backups / user / "repository/config").write_text(user)
        keys.mkdir(exist_ok=True)
        (keys / user).write_text("restrict ssh-ed25519 AAAA")
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    done = subprocess.run(
        ["sh", LEAVE, keys, backups, "store-gpu1", "store-gpu10"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.split() == ["store-gone", "store-half"]
    assert {path.name for path in keys.iterdir()} == {"store-gpu1", "store-gpu10", "of-the-operator"}
    assert len(list(backups.glob("*/repository/config"))) == 5
    assert done.stderr.splitlines()[:2] == [
        "userdel store-gone",
        f"chown -R root:root -- {backups}/store-gone",
    ]


def test_the_store_is_not_found_wanting_for_the_key_of_a_host_that_is_gone(evaluate, tmp_path, monkeypatch):
    """Its record says that the key is there, until another says that it is not; check.yml compares both."""
    tasks = yaml.safe_load((REPOSITORY / "roles/backup/tasks/store.yml").read_text())
    [after] = [task for task in tasks if "__backup_gone.stdout_lines" in str(task.get("host_files", ""))]
    files = evaluate("backup", after["host_files"]["files"], __backup_gone={"stdout_lines": ["store-gone"]})
    assert files == [{"path": "/etc/ssh/bedplate-backup/store-gone", "state": "absent"}]

    monkeypatch.setattr(host_files, "RECORDS", str(tmp_path))
    host_files.record([{"path": files[0]["path"], "content": "restrict ssh-ed25519 AAAA"}])
    assert host_files.differences() == [f"{files[0]['path']} is gone"]
    host_files.record(files)
    assert host_files.differences() == []


def test_a_host_that_brings_backups_may_do_nothing_else(render):
    text = render("backup", "etc/ssh/sshd_config.d/10-bedplate-backup.conf.j2")
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]

    # sshd takes the first that fits.
    assert lines[:3] == [
        "Match Group bedplate-backup-full",
        "ForceCommand internal-sftp -R",
        "Match Group bedplate-backup",
    ]
    assert {"ChrootDirectory /srv/bedplate-backup/%u", "ForceCommand internal-sftp", "PermitTTY no"} < set(lines)


def test_the_way_to_the_store_believes_no_host_at_first_sight(render):
    text = render("backup", "var/lib/bedplate-backup/ssh/config.j2", inventory_hostname="gpu1")

    assert "    HostName 192.0.2.21\n" in text
    assert "    User store-gpu1\n" in text
    assert "    StrictHostKeyChecking yes\n" in text


@pytest.mark.parametrize(("host", "network"), [("gpu1", "IPAddressAllow=192.0.2.21"), ("ops1", "PrivateNetwork=yes")])
def test_a_step_reaches_the_store_and_nobody_else(unit, host, network):
    lines = unit(host).splitlines()

    assert network in lines
    assert "IPAddressDeny=any" in lines


@pytest.mark.parametrize(
    ("name", "step"), [("backup", "backup"), ("backup-check", "check"), ("backup-rehearsal", "rehearse")]
)
def test_timers_make_up_for_what_they_missed_and_do_not_come_all_at_once(render, name, step):
    lines = render("backup", f"etc/systemd/system/bedplate-{name}.timer.j2", backup_spread_min=7).splitlines()

    assert {f"Unit=bedplate-backup@{step}.service", "Persistent=true", "RandomizedDelaySec=7min"} < set(lines)


def test_the_store_holds_each_host_to_its_own_quota_or_to_the_manuals(render):
    hostvars = {"gpu1": {"backup_quota_gib": 40}, "gpu2": {}, "lb1": {"backup_quota_files": 9}, "ops1": {}}

    its = {"inventory_hostname": "ops1", "hostvars": hostvars, "backup_quota_gib": 7}
    found = json.loads(render("backup", "etc/bedplate/store.json.j2", **its))["hosts"]

    assert found["store-gpu1"] == {"name": "gpu1", "gib": 40.0, "files": 500000}
    assert found["store-gpu2"]["gib"] == 0.0, "the store's own quota is no other host's"
    assert found["store-lb1"]["files"] == 9
    assert found.keys() == {"store-gpu1", "store-gpu2", "store-lb1", "store-ops1"}


@pytest.mark.parametrize(
    ("host", "target", "note"),
    [
        ("gpu1", "sftp", "/quota.json"),
        ("ops1", "sftp", "/srv/bedplate-backup/store-ops1/quota.json"),
        ("gpu1", "directory", ""),
        ("gpu1", "s3", ""),
    ],
)
def test_a_host_reads_at_the_store_why_it_may_not_write(settings, host, target, note):
    assert settings(host, ["inference"], backup_target=target)["quota_file"] == note


def test_quotas_are_looked_at_every_minute(render):
    lines = render("backup", "etc/systemd/system/bedplate-store.timer.j2").splitlines()

    assert {"OnActiveSec=5s", "OnUnitInactiveSec=1min", "AccuracySec=5s"} < set(lines)


@needs_systemd
def test_the_quotas_program_stays_below_its_bar(render, tmp_path):
    path = tmp_path / "bedplate-store.service"
    path.write_text(render("backup", "etc/systemd/system/bedplate-store.service.j2"))

    assert_exposure(path, 18)


@needs_systemd
@pytest.mark.parametrize(("host", "most"), [("gpu1", 24), ("ops1", 16)])
def test_exposure_stays_below_its_bar(unit, tmp_path, host, most):
    path = tmp_path / "bedplate-backup@1.service"
    path.write_text(unit(host))

    assert_exposure(path, most)
