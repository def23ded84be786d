"""When the shared cache is asked and when it is left alone."""

import pytest
from bedplate.web.cache.circuit_breaker import Circuit


@pytest.fixture
def circuit():
    """One that was proved to work."""
    circuit = Circuit(threshold=3)
    circuit.close()
    circuit.succeeded()
    return circuit


def test_nobody_asks_before_a_probe_was_answered():
    assert not Circuit(threshold=3).closed


def test_it_opens_at_the_failure_that_reaches_the_threshold(circuit):
    assert [circuit.failed(), circuit.failed(), circuit.closed] == [False, False, True]

    assert circuit.failed()
    assert not circuit.closed


def test_a_success_in_between_starts_the_count_anew(circuit):
    for _ in range(5):
        circuit.failed()
        circuit.failed()
        circuit.succeeded()

    assert circuit.closed


def test_after_a_probe_one_failure_opens_it_again(circuit):
    circuit.close()

    assert circuit.failed()


def test_failures_while_it_is_open_are_no_news(circuit):
    for _ in range(3):
        circuit.failed()

    assert not circuit.failed()
