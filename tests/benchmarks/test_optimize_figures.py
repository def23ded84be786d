"""Rounds of several servers as one comparison, and what of the bar it misses."""

from __future__ import annotations

import pytest

from benchmarks.optimize.table import Compared, markdown
from benchmarks.peers.results import Measured

PEER, PLAIN, OURS = "peer", "ours", "ours, optimized"


def compared(peer, ours, accuracy=1.0):
    """From the rates of each round."""
    runs = [
        Measured("", label, "", "cnn", turn, 16, rate, 1.0, None, {10_000: 99, 50_000: 1})
        for label, rates in ((PEER, peer), (PLAIN, peer), (OURS, ours))
        for turn, rate in enumerate(rates)
    ]
    forms = {PEER: "float32", PLAIN: "float32", OURS: "int8-compiled"}
    return Compared("cnn", forms, {PEER: 1.0, PLAIN: 1.0, OURS: accuracy}, runs)


def test_rates_are_compared_within_their_round():
    times = compared([10, 20, 40], [30, 60, 80]).times(OURS)

    assert (times.median, times.low, times.high) == (3, 2, 3)


@pytest.mark.parametrize(
    ("ours", "accuracy", "says"),
    [([20], 0.995, ""), ([19], 1.0, "1.90 times the peer"), ([90], 0.99, "loses 1.00 points")],
)
def test_the_bar_is_of_rate_and_accuracy(ours, accuracy, says):
    missed = compared([10], ours, accuracy).missed

    assert missed.startswith(says)
    assert bool(missed) == bool(says)


def test_the_table_tells_of_every_server_and_of_the_bar():
    text = markdown([compared([10, 10], [30, 20])], {"cores": "2"}, "2 rounds.")

    assert "| cnn | ours, optimized | int8-compiled | 1.0000 | 25.0 (20.0 to 30.0) | 2.50 (2.00 to 3.00) |" in text
    assert "| cnn | peer | float32 | 1.0000 | 10.0 (10.0 to 10.0) | 1.00 (1.00 to 1.00) |" in text
    assert "- cnn: the bar is met" in text


def test_the_document_has_every_round():
    document = compared([10, 10], [30, 10]).document

    assert document["missed"] == ""
    assert [side["server"] for side in document["sides"]] == [PEER, PLAIN, OURS]
    ours = document["sides"][-1]
    assert ours["times_the_peer"] == {"median": 2, "low": 1, "high": 3}
    assert [(each["per_s"], each["p50_ms"], each["p99_ms"]) for each in ours["rounds"]] == [(30, 10, 10), (10, 10, 10)]
