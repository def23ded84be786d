"""Who goes to the device next, and with whom."""

import numpy as np
import pytest
from bedplate.engine.schedule import Room, Schedule
from bedplate.engine.work import Work
from bedplate.wire import BATCH, INTERACTIVE

from tests.service.engine_tools import GatedLamp

LAMP, OTHER = GatedLamp(), GatedLamp("other")


@pytest.fixture
def schedule():
    return Schedule(lambda work: Room(8, 100))


def put(schedule, *works):
    for number, work in enumerate(works, start=len(schedule) + 1):
        work.number = number
        schedule.add(work)
    return works


def request(items=1, model=LAMP, side=2, **options):
    return Work(model, np.zeros((items, 1, side, side), np.float32), **options)


def taken(schedule):
    batches = []
    while batch := schedule.take():
        batches.append(batch.works)
    return batches


def test_an_earlier_deadline_goes_first_and_none_goes_last(schedule):
    never, late, soon = put(schedule, request(8), request(8, deadline_ns=20), request(8, deadline_ns=10))

    assert taken(schedule) == [[soon], [late], [never]]


def test_interactive_requests_go_before_those_of_jobs(schedule):
    job, person = put(
        schedule, request(8, priority=BATCH, deadline_ns=1), request(8, priority=INTERACTIVE, deadline_ns=99)
    )

    assert taken(schedule) == [[person], [job]]


def test_jobs_fill_the_room_that_interactive_requests_leave(schedule):
    job, person = put(schedule, request(2, priority=BATCH), request(3))

    assert taken(schedule) == [[person, job]]


def test_requests_of_different_shapes_never_share_a_batch(schedule):
    small, large, small_too = put(schedule, request(side=2), request(side=3), request(side=2))

    assert taken(schedule) == [[small, small_too], [large]]


def test_a_batch_is_bounded_by_what_its_items_cost(schedule):
    first, second, third = put(schedule, request(cost=60), request(cost=30), request(cost=20))

    assert taken(schedule) == [[first, second], [third]]


def test_a_request_that_is_larger_than_the_room_goes_alone(schedule):
    huge, small = put(schedule, request(cost=1000), request(cost=1))

    assert taken(schedule) == [[huge], [small]]


def test_requests_of_a_held_model_wait_and_others_pass(schedule):
    held, free = put(schedule, request(), request(model=OTHER))
    schedule.held.add(("lamp", "1"))

    assert taken(schedule) == [[free]]
    schedule.held.clear()
    assert taken(schedule) == [[held]]


def test_what_is_removed_is_not_taken(schedule):
    twins = put(schedule, request(deadline_ns=5), request(deadline_ns=5), request(deadline_ns=5))

    assert schedule.remove(twins[1])
    assert not schedule.remove(twins[1])

    assert taken(schedule) == [[twins[0], twins[2]]]


def test_late_requests_are_taken_out_together(schedule):
    late, in_time, never = put(schedule, request(deadline_ns=10), request(deadline_ns=11), request())

    assert schedule.take_late(10) == [late]
    assert list(schedule) == [in_time, never]


def test_the_batches_that_are_foreseen_are_those_that_are_taken(schedule):
    put(
        schedule,
        request(5),
        request(2, OTHER),
        request(4),
        request(1, side=3),
        request(1),
        request(1, OTHER),
        request(7),
    )
    newcomer = request(2)
    newcomer.number = 99

    foreseen = [batch.works for batch in schedule.batches(newcomer)]

    assert newcomer not in list(schedule)
    schedule.add(newcomer)
    assert taken(schedule) == foreseen


def test_only_the_last_batch_of_a_bucket_may_still_be_joined(schedule):
    put(schedule, request(5), request(5), request(1, OTHER))

    full, last, other = schedule.batches()

    assert (full.is_open, last.is_open, other.is_open) == (False, True, True)
    assert (full.full_cost, last.full_cost, other.full_cost) == (5, 8, 8)
