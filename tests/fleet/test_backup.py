"""Backups of a whole fleet: every host has one that was proven, at a store where each sees its own and no other's."""

import hashlib
import json

import pytest

HOSTS = ["lb1", "gpu1", "gpu2", "ops1"]
STORE = "/var/lib/bedplate-backup/ssh/config"
MODELS = "/var/lib/bedplate/models"
KEPT = "/var/lib/bedplate-models-kept"


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_has_a_backup_that_was_read_and_restored(fleet, host):
    found = json.loads(fleet.ssh(host, "bedplate-backup list --json"))

    assert found["host"] == host
    assert found["snapshots"][-1]["proven"]
    assert found["checked"]["ok"]


def test_prometheus_is_told_of_every_hosts_backups(fleet, wait_until):
    url = "http://127.0.0.1:9090/api/v1/query?query=bedplate_backup_ok"
    program = f"import urllib.request; print(urllib.request.urlopen('{url}').read().decode())"

    def told():
        results = json.loads(fleet.ssh("ops1", "/usr/bin/python3 -", stdin=program))["data"]["result"]
        return {(one["metric"]["instance"], one["metric"]["step"]) for one in results if one["value"][1] == "1"}

    wanted = {(host, step) for host in HOSTS for step in ("backup", "check", "rehearse")}
    wait_until(lambda: wanted <= told(), 40)


def test_a_host_sees_its_own_folder_at_the_store_and_can_do_nothing_else(fleet):
    # One connection for both: the store's firewall holds off who comes too often.
    fleet.ssh("gpu1", f"ssh -F {STORE} -f -N -M store </dev/null >/dev/null 2>&1")
    try:
        seen = fleet.ssh("gpu1", f"echo 'ls -1 /' | sftp -q -F {STORE} -b - store")
        done = fleet.ssh("gpu1", f"timeout 20 ssh -F {STORE} store id 2>&1 </dev/null || true")
    finally:
        fleet.ssh("gpu1", f"ssh -F {STORE} -O exit store 2>&1")
    other = fleet.ssh("gpu1", f"ssh -F {STORE} -l store-lb1 store 2>&1 </dev/null || true")

    assert [line for line in seen.splitlines() if not line.startswith("sftp>")] == ["/quota.json", "/repository"]
    assert "uid=" not in done
    assert "Permission denied (publickey)" in other


def test_a_host_over_its_quota_reads_and_does_not_write_until_it_is_raised(fleet):
    """The settings are the test's own for a moment; the next run would write them anew, too."""
    kept, settings = "/etc/bedplate/store.json.kept", "/etc/bedplate/store.json"
    note = "/srv/bedplate-backup/store-gpu1/quota.json"

    def look():
        fleet.ssh("ops1", "systemctl start bedplate-store.service")
        return json.loads(fleet.ssh("ops1", f"cat {note}"))["refused"]

    wanted = json.loads(fleet.ssh("ops1", f"cp -a {settings} {kept} && cat {settings}"))
    wanted["hosts"]["store-gpu1"]["files"] = 1
    try:
        fleet.ssh("ops1", f"cat > {settings}", stdin=json.dumps(wanted))
        assert "more than 1 files" in look()

        said = fleet.ssh("gpu1", "systemctl start bedplate-backup@backup.service 2>&1; "
                                 "journalctl --unit=bedplate-backup@backup --lines=5 --output=cat")  # fmt: skip
        assert "the store takes nothing more: this host keeps more than 1 files there" in said
        stray = "put /etc/hostname /repository/stray"
        put = fleet.ssh("gpu1", f"echo '{stray}' | sftp -q -F {STORE} -b - store 2>&1 || true")
        assert "ermission denied" in put
        assert json.loads(fleet.ssh("gpu1", "bedplate-backup list --json"))["snapshots"]
        fleet.ssh("gpu1", "systemctl start bedplate-backup@rehearse.service")
    finally:
        fleet.ssh("ops1", f"mv {kept} {settings}")
    assert look() == ""
    fleet.ssh("gpu1", "systemctl start bedplate-backup@backup.service")


def test_a_hosts_password_lies_in_its_file_alone(fleet):
    password = hashlib.sha256(f"gpu1:{fleet.secrets['secret_backup']}".encode()).hexdigest()
    everywhere = "systemctl cat '*' 2>/dev/null; journalctl -o cat; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ"

    assert fleet.ssh("gpu1", "cat /etc/bedplate/credentials/backup") == password
    assert set(fleet.ssh("gpu1", "stat -c '%a %U' /etc/bedplate/credentials/*").splitlines()) == {"600 root"}
    text = fleet.ssh("gpu1", f"{{ {everywhere}; }} 2>/dev/null | tr -cd '[:print:]\\n' || true")
    assert len(text) > 100
    assert password not in text


def test_the_backup_of_the_ops_host_holds_the_vault_as_it_is_here(fleet):
    sealed = json.loads(fleet.ssh("ops1", "cat /etc/bedplate/backup.json"))["parts"]["sealed"]

    assert fleet.ssh("ops1", f"cat {sealed[0]}/secrets.yml") == (fleet.inventory / "secrets.yml").read_text()


def test_a_bundle_that_was_lost_comes_back_by_one_command(fleet, predicts):
    sums = f"cd {MODELS} && find . -type f -exec sha256sum {{}} + | sort; stat -c '%n %a %U %G' $(find . | sort)"
    before = fleet.ssh("gpu2", sums)
    fleet.ssh("gpu2", f"cp -a {MODELS} {KEPT} && rm -r {MODELS}/digits/1/* && touch {MODELS}/stray")
    try:
        run = fleet.playbook("restore.yml", "-e", "host=gpu2", "-e", "thing=bundles")

        assert run.returncode == 0, run.stdout
        assert fleet.ssh("gpu2", sums) == before
        assert predicts()
        assert fleet.playbook("check.yml").returncode == 0
    except BaseException:
        # The tests after this one want a host that serves.
        fleet.ssh("gpu2", f"rm -r {MODELS} && cp -a {KEPT} {MODELS} && systemctl restart bedplate-engine@cpu0")
        raise
    finally:
        fleet.ssh("gpu2", f"rm -r {KEPT}")


def test_a_rehearsal_that_fails_fails_the_run_and_says_why(fleet):
    password = "/etc/bedplate/credentials/backup"
    fleet.ssh("gpu1", f"cp -a {password} {password}.kept && echo wrong > {password}")
    try:
        run = fleet.playbook("rehearse.yml", "-e", "host=gpu1")
    finally:
        fleet.ssh("gpu1", f"mv {password}.kept {password}")

    assert run.returncode != 0
    assert "wrong password" in run.stdout


# After the one above, so that the last rehearsal is a good one.
def test_a_rehearsal_by_hand_proves_the_backup(fleet):
    run = fleet.playbook("rehearse.yml", "-e", "host=gpu1")

    assert run.returncode == 0, run.stdout
    assert "equal byte for byte" in run.stdout
