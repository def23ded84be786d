"""Our histogram tells exactly what prometheus_client's would."""

import prometheus_client
import pytest
from bedplate.telemetry.histogram import Histogram
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

BOUNDS = (0.001, 0.25, 1, 30)


def told(make, values):
    registry = CollectorRegistry()
    series = make(registry).labels("lamp", "1")
    for value in values:
        series.observe(value)
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


@given(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 100)), max_size=20))
def test_it_tells_what_the_libraries_own_tells(values):
    labels = ["model", "version"]

    ours = told(lambda registry: Histogram("x_seconds", "Time, s", labels, BOUNDS, registry), values)
    theirs = told(
        lambda registry: prometheus_client.Histogram("x_seconds", "Time, s", labels, buckets=BOUNDS, registry=registry),
        values,
    )

    assert ours == theirs


def test_a_name_is_taken_once():
    registry = CollectorRegistry()
    Histogram("x_seconds", "Time, s", [], BOUNDS, registry)

    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("x_seconds", "Time, s", [], BOUNDS, registry)
