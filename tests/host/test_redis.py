"""The response cache as its users meet it, and as others do."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

testinfra_hosts = ["ssh://ops1"]

REPOSITORY = Path(__file__).resolve().parents[2]
UNIT = "redis-server@cache"
SECRETS = {
    "bedplate-web": "secret_redis_cache_web",
    "exporter": "secret_redis_cache_exporter",
    "admin": "secret_redis_cache_admin",
}
ALLOWED_TO_WEB = ["SET bedplate:cache:test x EX 60", "GET bedplate:cache:test", "DEL bedplate:cache:test", "PING"]
DENIED_TO_WEB = [
    "GET other:key",
    "SET other:key x",
    'EVAL "return 1" 0',
    "CONFIG GET maxmemory",
    "FLUSHALL",
    "FLUSHDB",
    "DEBUG SLEEP 0",
    "MODULE LIST",
    "KEYS bedplate:*",
    "SCAN 0",
    "INFO",
    "CLIENT LIST",
    "ACL LIST",
    "MONITOR",
    "SAVE",
    "REPLICAOF NO ONE",
    "SHUTDOWN NOSAVE",
]
ALLOWED_TO_EXPORTER = ["PING", "INFO all", "SLOWLOG LEN", "SLOWLOG GET 1", "LATENCY LATEST", "CLIENT SETNAME test"]
DENIED_TO_EXPORTER = [
    "GET bedplate:cache:test",
    "SET bedplate:cache:test x",
    "CONFIG GET maxmemory",
    "CLIENT LIST",
    "SLOWLOG RESET",
    "KEYS *",
]


@pytest.fixture(scope="session")
def secrets(request):
    """Those of the inventory whose authority is given."""
    path = Path(request.config.getoption("--authority")).parents[1] / "secrets.yml"
    vault = str(Path(sys.executable).parent / "ansible-vault")
    shown = subprocess.run([vault, "view", str(path)], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return yaml.safe_load(shown.stdout)


@pytest.fixture
def say(host, request, secrets):
    """What Redis on the host answers to a command, as a user; the password is in no argument and no log."""

    def said(user, command, password=None):
        login = f"AUTH {user} {password or secrets[SECRETS[user]]}\n" if user else ""
        client = ["ssh", "-F", request.config.getoption("--ssh-config"), host.backend.host.name, "redis-cli"]
        answer = subprocess.run(
            client, input=f"{login}{command}\n", capture_output=True, check=True, text=True, timeout=20
        ).stdout
        return answer.removeprefix("OK\n").strip()

    return said


def test_it_has_none_of_the_powers_of_root(host):
    process = host.check_output(f"systemctl show --property=MainPID --value {UNIT}")

    assert "CapBnd:\t0000000000000000" in host.file(f"/proc/{process}/status").content_string


@pytest.mark.parametrize("command", ["PING", "GET bedplate:cache:test", "INFO", "ACL LIST"])
def test_nobody_is_let_in_without_a_password(say, command):
    assert say(None, command).startswith("NOAUTH")


@pytest.mark.parametrize("user", ["default", *SECRETS])
def test_a_wrong_password_is_refused(say, user):
    assert say(user, "PING", "wrong").startswith("WRONGPASS")


def test_a_front_end_can_do_its_work(say):
    assert [say("bedplate-web", command) for command in ALLOWED_TO_WEB] == ["OK", "x", "1", "PONG"]


@pytest.mark.parametrize("command", DENIED_TO_WEB)
def test_a_front_end_may_do_nothing_else(say, command):
    # DEBUG is locked for everybody since 7.0.
    assert say("bedplate-web", command).startswith(("NOPERM", "ERR DEBUG command not allowed"))


@pytest.mark.parametrize("command", ALLOWED_TO_EXPORTER)
def test_the_exporter_can_do_its_work(say, command):
    assert not say("exporter", command).startswith("NOPERM")


@pytest.mark.parametrize("command", DENIED_TO_EXPORTER)
def test_the_exporter_may_read_no_answer_and_change_nothing(say, command):
    assert say("exporter", command).startswith("NOPERM")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("maxmemory", "268435456"),
        ("maxmemory-policy", "allkeys-lru"),
        ("save", ""),
        ("appendonly", "no"),
        ("dir", "/run/redis-cache"),
    ],
)
def test_it_is_bounded_and_keeps_nothing_on_disk(say, setting, value):
    assert say("admin", f"CONFIG GET {setting}").splitlines() == [setting, value][: 1 + bool(value)]


def test_not_even_administrators_may_debug_it(say):
    assert say("admin", "DEBUG SLEEP 0").startswith("ERR DEBUG command not allowed")


def test_it_listens_on_the_private_address_and_inside_only(host, address):
    lines = host.check_output("ss --no-header --listening --tcp --numeric --processes").splitlines()

    listening = {line.split()[3] for line in lines if '"redis-server"' in line}

    assert listening == {f"{address}:6379", "127.0.0.1:6379"}


def test_the_distributions_own_instance_is_off(host):
    assert not host.service("redis-server").is_running
    assert not host.service("redis-server").is_enabled
    assert host.service(UNIT).is_enabled


@pytest.mark.parametrize("path", ["/etc/redis/redis-cache.conf", "/etc/redis/redis-cache.acl"])
def test_its_files_are_not_for_everybody_and_hold_no_password(host, secrets, path):
    file = host.file(path)

    assert (file.user, file.group, file.mode) == ("root", "redis", 0o640)
    assert not any(secrets[name] in file.content_string for name in SECRETS.values())


def test_its_unit_is_bounded(host):
    shown = host.check_output(f"systemctl show {UNIT} --property=MemoryMax,TasksMax,LimitCORE,Restart")

    properties = dict(line.split("=") for line in shown.splitlines())
    # 1.5 times the 256 MB of answers, and 64 MB.
    assert properties == {"MemoryMax": str(448 << 20), "TasksMax": "64", "LimitCORE": "0", "Restart": "always"}


def test_it_comes_back_after_a_crash(host, say):
    host.check_output(f"systemctl kill --signal=KILL {UNIT}")

    deadline = time.monotonic() + 10
    while True:
        try:
            say("bedplate-web", "SET bedplate:cache:back yes EX 60")
            if say("bedplate-web", "GET bedplate:cache:back") == "yes":
                return
        except subprocess.CalledProcessError:
            pass
        assert time.monotonic() < deadline, "no authenticated SET and GET within 10 s"
        time.sleep(0.1)


BROKEN = {
    "conf-unknown": ("conf", "no-such-setting yes", "no-such-setting"),
    "conf-value": ("conf", "maxmemory-policy sometimes", "argument"),
    "acl-command": ("acl", "user web on nopass ~* +no-such-command", "ommand or category"),
    "acl-word": ("acl", "usr web on", "should start with user keyword"),
}


@pytest.mark.parametrize(("kind", "line", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused_with_the_reason(host, kind, line, reason):
    path = "/tmp/bedplate-broken"
    host.check_output("printf '%%s\n' %s > %s", line, path)

    checked = host.run(f"/usr/local/lib/bedplate/check-redis {kind} {path}")

    host.check_output(f"rm {path}")
    assert checked.rc == 1
    assert reason in checked.stderr


def test_the_check_of_a_good_file_leaves_nothing_running(host):
    count = "ps -C redis-server --no-headers | wc -l"
    before = host.check_output(count)

    for kind in ("conf", "acl"):
        host.check_output(f"/usr/local/lib/bedplate/check-redis {kind} /etc/redis/redis-cache.{kind}")

    assert host.check_output(count) == before
