"""Whom a unit's programs may talk to, from the kernel's mouth: the filter alone, with the rest of the sandbox away."""

import json

import pytest


@pytest.fixture(scope="module")
def targets(host):
    """{what: HOST:PORT}, all of which answer on a host without filters."""
    private = host("hostname --all-ip-addresses").split()[0]
    gateway = host("ip -4 route show default").split()[2]
    return {"the cache": f"{private}:6379", "itself": "127.0.0.1:22", "another machine": f"{gateway}:1"}


@pytest.fixture
def reached(run_in_unit, targets):
    """reached(unit) → {what: outcome} for a program in the unit's control group."""

    def reached(unit):
        output, status = run_in_unit(unit, "reach.py", *targets.values())
        assert status == 0, output
        outcomes = json.loads(output)
        return {what: outcomes[target] for what, target in targets.items()}

    return reached


def test_without_a_filter_everything_is_reached(reached):
    assert set(reached("ssh").values()) == {"reached"}


@pytest.mark.parametrize("unit", ["bedplate-engine@cpu0", "bedplate-web@1", "bedplate-web@2", "bedplate-metrics"])
def test_engine_front_ends_and_metrics_reach_nobody(reached, unit):
    """Although front ends answer on sockets that systemd handed in, as every right prediction shows."""
    assert "reached" not in reached(unit).values()


def test_the_way_to_the_cache_reaches_the_cache_alone(reached):
    outcomes = reached("bedplate-redis-cache")

    assert outcomes.pop("the cache") == "reached"
    assert "reached" not in outcomes.values()
