"""The cache's files, as each release gets them."""

from __future__ import annotations

import hashlib
import re

import pytest
from exposure import assert_exposure, needs_systemd

RELEASES = ["jammy", "noble", "resolute", "bullseye", "bookworm", "trixie"]
USERS = ["web", "exporter", "admin"]
SECRETS = {f"secret_redis_cache_{user}": f"{user}-{'x' * 40}" for user in USERS}
DROP_IN = "etc/systemd/system/redis-server@cache.service.d/bedplate.conf"


@pytest.fixture
def conf(render):
    def settings(release="bookworm", **overrides):
        text = render("redis", "etc/redis/redis-cache.conf.j2", release, **overrides)
        lines = [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
        assert len({name for name, _ in lines}) == len(lines)
        return dict(lines)

    return settings


@pytest.fixture
def users(render):
    """The rules of each user, by name."""

    def rules(release="bookworm"):
        text = render("redis", "etc/redis/redis-cache.acl.j2", release, **SECRETS)
        return {line.split()[1]: line.split()[2:] for line in text.splitlines()}

    return rules


@pytest.fixture
def unit(render):
    return lambda **overrides: render("redis", f"{DROP_IN}.j2", **overrides)


def value(text, key):
    [found] = re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)
    return found


@pytest.mark.parametrize("release", RELEASES)
def test_it_is_bounded_and_keeps_nothing_on_disk(conf, release):
    settings = conf(release, redis_cache_max_memory_mb=64)

    assert (settings["maxmemory"], settings["maxmemory-policy"]) == ("64mb", "allkeys-lru")
    assert (settings["save"], settings["appendonly"]) == ('""', "no")
    assert settings["dir"] == "/run/redis-cache"


@pytest.mark.parametrize(
    ("release", "locks", "hides"),
    [
        ("jammy", False, False),
        ("bullseye", False, False),
        ("noble", True, False),
        ("bookworm", True, False),
        ("trixie", True, True),
        ("resolute", True, True),
    ],
)
def test_a_release_gets_the_directives_that_its_redis_knows(conf, release, locks, hides):
    settings = conf(release)

    locked = {"enable-debug-command", "enable-module-command", "enable-protected-configs"}
    assert locked & settings.keys() == (locked if locks else set())
    assert ("hide-user-data-from-log" in settings) is hides


@pytest.mark.parametrize("comers", [["inference"], []])
def test_it_listens_where_its_own_hosts_clients_look_for_it(conf, comers):
    assert conf(fleet_redis_cache={"port": 7000, "from": comers})["bind"] == "127.0.0.1 192.0.2.1"


def test_an_address_is_bound_once(conf):
    assert conf(private_address="127.0.0.1")["bind"] == "127.0.0.1"


def test_it_listens_on_the_declared_port(conf):
    assert conf(fleet_redis_cache={"port": 7000, "from": []})["port"] == "7000"


@pytest.mark.parametrize("release", RELEASES)
def test_who_has_no_password_may_nothing(users, release):
    assert users(release)["default"] == ["off", "resetpass", "resetkeys", "-@all"]


@pytest.mark.parametrize("release", RELEASES)
def test_passwords_are_hashes(users, release):
    text = str(users(release))

    for secret in SECRETS.values():
        assert secret not in text
        assert f"#{hashlib.sha256(secret.encode()).hexdigest()}" in text


@pytest.mark.parametrize("release", RELEASES)
def test_a_front_end_reads_and_writes_its_own_keys_and_nothing_else(users, release):
    granted = [rule for rule in users(release)["bedplate-web"] if not rule.startswith("#")]

    assert granted == ["on", "~bedplate:*", "-@all", "+get", "+set", "+del", "+ping"]


@pytest.mark.parametrize("release", RELEASES)
def test_the_exporter_reads_no_key(users, release):
    rules = users(release)["exporter"]

    assert not [rule for rule in rules if rule.startswith(("~", "&", "+@", "+get", "+config", "+eval"))]
    assert "+info" in rules


# Redis 6.0 knows no rights to channels, and a subcommand that a release does not know refuses the whole file.
@pytest.mark.parametrize(("release", "known"), [("bullseye", False), ("jammy", False), ("bookworm", True)])
def test_a_release_gets_the_rights_that_its_redis_knows(users, release, known):
    rules = users(release)

    assert ("allchannels" in rules["admin"]) is known
    assert ("+latency|histogram" in rules["exporter"]) is known


def test_the_memory_of_the_unit_holds_more_than_the_answers(unit):
    assert value(unit(redis_cache_max_memory_mb=1000), "MemoryMax") == "1564M"


def test_it_is_restarted_for_ever(unit):
    text = unit()

    assert value(text, "Restart") == "always"
    assert value(text, "StartLimitIntervalSec") == "0"
    assert int(value(text, "RestartSec").removesuffix("s")) <= 5


@needs_systemd
def test_exposure_stays_below_its_bar(unit, tmp_path):
    path = tmp_path / "redis.service"
    path.write_text(f"{unit()}\nUser=redis\nExecStart=/bin/true\n")

    assert_exposure(path, 12)
