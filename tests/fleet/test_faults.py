"""Hosts without power, a dead engine, a cache that is not well: what clients notice, and that all comes back."""

import subprocess
import time

import pytest

from benchmarks.redis_faults import faults as redis_faults
from tools.heldout import load
from tools.load.ledger import summarise

HOSTS = ["lb1", "gpu1", "gpu2", "ops1"]
# What is not up, among the units that the roles declared. systemd says ConditionResult=no of what nobody tried, too.
NOT_UP = (
    "for record in /var/lib/host-units/*; do grep -q stopped $record && continue; unit=${record##*[:/]}; "
    "result=$(systemctl show -P ConditionResult $unit) tried=$(systemctl show -P ConditionTimestampMonotonic $unit); "
    '{ test "$result" = no && test "$tried" != 0; } || systemctl is-active --quiet $unit || echo $unit; done'
)


def test_a_killed_redis_takes_values_again_within_10_s(fleet, wait_until):
    def sets_and_gets():
        return fleet.redis("SET bedplate:test ok EX 60", "GET bedplate:test") == "OK\nok\n"

    assert sets_and_gets()
    fleet.ssh("ops1", "systemctl kill --signal=KILL redis-server@cache.service")

    wait_until(sets_and_gets, 10)


def test_one_killed_engine_of_two_hosts_costs_no_request(fleet):
    with load(fleet, rate=50, seconds=12) as records:
        time.sleep(2)
        fleet.ssh("gpu1", "systemctl kill --signal=KILL bedplate-engine@cpu0.service")

    # nginx asks as many front ends as one host has, and one more.
    assert not [record for record in records if record.failed], summarise(records)


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_without_power_comes_back_unattended_within_60_s(fleet, testhosts, predicts, wait_until, host):
    def is_up():
        try:
            return fleet.ssh(host, NOT_UP) == ""
        except subprocess.CalledProcessError:
            return False

    assert is_up(), fleet.ssh(host, NOT_UP)
    fleet.hang_up(host)
    testhosts("poweroff", host)
    started = time.monotonic()
    testhosts("boot", host)

    wait_until(lambda: is_up() and predicts(), 60 - (time.monotonic() - started))


def test_a_drained_host_may_lose_its_power_without_a_failed_request(fleet, testhosts):
    drained = fleet.playbook("drain.yml", "-e", "host=gpu2")
    assert drained.returncode == 0, drained.stdout
    fleet.hang_up("gpu2")

    with load(fleet, rate=100, seconds=30) as records:
        testhosts("poweroff", "gpu2")
        testhosts("boot", "gpu2")
        back = fleet.playbook("undrain.yml", "-e", "host=gpu2")

    assert back.returncode == 0, back.stdout
    assert len(records) == 3000
    assert not [record for record in records if record.failed], summarise(records)


@pytest.fixture(params=["unreachable", "refused", "slow"])
def redis_fault(request, fleet):
    """A function that begins the fault; it ends with the test."""
    begin, end = redis_faults(fleet)[request.param]
    yield begin
    end()


def test_a_cache_that_is_not_well_costs_no_prediction(fleet, redis_fault):
    with load(fleet, rate=50, seconds=15, cached=True) as records:
        time.sleep(3)
        redis_fault()

    failed = [record for record in records if record.failed]
    assert len(failed) <= 0.001 * len(records), summarise(records)
