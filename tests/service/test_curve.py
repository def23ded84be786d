"""What batches take is learned from batches."""

import random

import pytest
from bedplate.engine.curve import Curve

MS = 1e6


def curve_of(*batches):
    curve = Curve()
    for cost, took_ms in batches:
        curve.learn(cost, took_ms * MS)
    return curve


def test_nothing_is_expected_before_anything_was_learned():
    assert not Curve().is_known
    assert Curve().expect_ns(8) == 0


def test_batches_of_several_sizes_tell_what_is_fixed_and_what_grows():
    curve = curve_of((1, 30), (2, 40), (4, 60), (8, 100))

    assert curve.fixed_ns == pytest.approx(20 * MS)
    assert curve.per_cost_ns == pytest.approx(10 * MS)


def test_noise_does_not_hide_the_line():
    noise = random.Random(5)
    sizes = [noise.randint(1, 8) for _ in range(400)]

    curve = curve_of(*((size, (20 + 10 * size) * noise.uniform(0.95, 1.05)) for size in sizes))

    assert curve.expect_ns(1) == pytest.approx(30 * MS, rel=0.1)
    assert curve.expect_ns(8) == pytest.approx(100 * MS, rel=0.1)
    assert 0 < curve.deviation_ns < 5 * MS


def test_one_size_alone_is_taken_to_grow_with_the_cost():
    assert curve_of((4, 40), (4, 40)).expect_ns(8) == pytest.approx(80 * MS)


def test_the_slope_is_kept_through_a_thousand_full_batches():
    curve = curve_of((1, 30), (2, 40), (4, 60), (8, 100), *[(8, 100)] * 1000)

    assert curve.expect_ns(1) == pytest.approx(30 * MS, rel=0.01)


def test_a_device_that_becomes_slower_is_believed_within_a_hundred_batches():
    curve = curve_of(*[(size, 20 + 10 * size) for size in (1, 4, 8)] * 20)

    for _ in range(33):
        for size in (1, 4, 8):
            curve.learn(size, 2 * (20 + 10 * size) * MS)

    assert curve.expect_ns(8) == pytest.approx(200 * MS, rel=0.05)


def test_a_minute_in_which_the_process_was_stopped_is_soon_forgotten():
    curve = curve_of(*[(size, 20 + 10 * size) for size in (1, 4, 8)] * 20)

    curve.learn(8, 60_000 * MS)

    assert curve.expect_ns(8) < 140 * MS


def test_a_line_never_begins_below_zero():
    curve = curve_of((4, 4), (8, 100))

    assert curve.fixed_ns == pytest.approx(0)
    assert curve.expect_ns(8) > 0


@pytest.mark.parametrize(("time_ms", "cost"), [(100, 8), (30, 1), (20, 0), (10, -1)])
def test_the_cost_that_a_time_allows(time_ms, cost):
    assert curve_of((1, 30), (8, 100)).largest_cost_within(time_ms * MS) == pytest.approx(cost)
