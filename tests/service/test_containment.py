"""One bad item never fails its neighbours, and a batch that is too large is computed in parts."""

import numpy as np
import pytest
from bedplate.engine.containment import Containment, NotFiniteOutput
from bedplate.engine.faults import DeviceLost, DeviceOutOfMemory


class Device:
    """Doubles its inputs; fails on items of value 13, has room for `room` items, counts its runs."""

    def __init__(self, room=1000, fault=None):
        self.sizes = []
        self._room = room
        self._fault = fault or ValueError("thirteen")

    def run(self, inputs):
        self.sizes.append(len(inputs))
        if len(inputs) > self._room:
            raise DeviceOutOfMemory
        if (inputs == 13).any():
            raise self._fault
        return inputs * 2


def items(count, *bad, value=13):
    inputs = np.arange(100, 100 + count, dtype=np.float32).reshape(count, 1)
    inputs[list(bad)] = value
    return inputs


def compute(device, inputs, is_over=lambda: False):
    return Containment(device.run, is_over).compute(inputs)


def test_a_good_batch_is_one_run_and_its_outputs_are_not_copied():
    device, inputs = Device(), items(64)
    answers = []

    outcome = Containment(lambda batch: answers.append(device.run(batch)) or answers[0], lambda: False).compute(inputs)

    assert device.sizes == [64]
    assert outcome.outputs is answers[0]
    assert not outcome.faults


@pytest.mark.parametrize("bad", [(0,), (17,), (63,), (0, 63), (31, 32), tuple(range(64))])
def test_only_the_bad_items_of_a_batch_fail(bad):
    inputs = items(64, *bad)

    outcome = compute(Device(), inputs)

    assert set(outcome.faults) == set(bad)
    good = [item for item in range(64) if item not in bad]
    if good:
        assert np.array_equal(outcome.outputs[good], inputs[good] * 2)


def test_one_bad_item_of_64_costs_two_runs_for_each_halving():
    device = Device()

    compute(device, items(64, 17))

    assert len(device.sizes) == 1 + 2 * 6


def test_an_item_whose_output_is_not_finite_fails_alone():
    outcome = compute(Device(), items(8, 3, value=np.inf))

    assert list(outcome.faults) == [3]
    assert isinstance(outcome.faults[3], NotFiniteOutput)


def test_a_batch_that_does_not_fit_is_halved_once():
    device, inputs = Device(room=32), items(64)

    outcome = compute(device, inputs)

    assert device.sizes == [64, 32, 32]
    assert np.array_equal(outcome.outputs, inputs * 2)
    assert (outcome.faults, outcome.too_many) == ({}, 64)


def test_halves_that_do_not_fit_either_fail_without_more_tries():
    device = Device(room=8)

    outcome = compute(device, items(64))

    assert device.sizes == [64, 32, 32]
    assert len(outcome.faults) == 64
    assert outcome.too_many == 32


def test_a_bad_item_in_a_half_fails_alone():
    outcome = compute(Device(room=32), items(64, 40))

    assert list(outcome.faults) == [40]


def test_nothing_is_taken_apart_once_nobody_waits():
    device = Device()

    outcome = compute(device, items(8, 1), is_over=lambda: len(device.sizes) >= 2)

    assert device.sizes == [8, 4, 4]
    assert set(outcome.faults) == {0, 1, 2, 3}


def test_too_few_answers_are_no_answers():
    outcome = Containment(lambda inputs: inputs[:-1], lambda: False).compute(items(2))

    assert set(outcome.faults) == {0, 1}


def test_a_lost_device_is_nobodys_fault_and_ends_the_attempts():
    device = Device(fault=DeviceLost("sticky"))

    with pytest.raises(DeviceLost):
        compute(device, items(8, 2))

    assert device.sizes == [8]
