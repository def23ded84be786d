"""Our counter tells exactly what prometheus_client's would."""

import prometheus_client
import pytest
from bedplate.telemetry.counter import Counter
from prometheus_client import CollectorRegistry, generate_latest


def told(make):
    registry = CollectorRegistry()
    counter = make("x", "Things", ["model", "status"], registry=registry)
    counter.labels("lamp", "200").inc()
    counter.labels("lamp", "200").inc(2)
    counter.labels('a "quoted" one', "503")
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


def test_it_tells_what_the_librarys_own_tells():
    assert told(Counter) == told(prometheus_client.Counter)


def test_a_name_is_taken_once():
    registry = CollectorRegistry()
    Counter("x", "Things", [], registry)

    with pytest.raises(ValueError, match="Duplicated"):
        Counter("x", "Things", [], registry)
