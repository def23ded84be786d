"""An engine keeps to cores of its own, if there are enough."""

import pytest
from bedplate.engine.cores import cores_of


@pytest.mark.parametrize(
    ("device", "threads", "available", "cores"),
    [
        ("cpu0", 1, {0, 1}, {1}),
        ("cpu1", 1, {0, 1}, {0}),
        ("cpu2", 1, {0, 1}, None),
        ("cpu0", 4, set(range(16)), {12, 13, 14, 15}),
        ("cpu3", 4, set(range(16)), {0, 1, 2, 3}),
        ("cpu0", 4, {0, 1}, None),
        ("cpu0", 1, {5}, {5}),
        ("cpu1", 2, {3, 8, 9, 12}, {3, 8}),
        ("gpu0", 1, {0, 1}, None),
    ],
)
def test_engines_share_out_the_cores_from_the_last(device, threads, available, cores):
    assert cores_of(device, threads, available) == cores
