"""Who goes to the device next, and with whom."""

import numpy as np
import pytest
from bedplate.engine.schedule import BatchLimits, Schedule
from bedplate.engine.work import QueuedRequest
from bedplate.wire import BATCH, INTERACTIVE, PROBE
from hypothesis import given
from hypothesis import strategies as st

from tests.service.engine_tools import GatedLamp

LAMP, OTHER = GatedLamp(), GatedLamp("other")
MS = 1_000_000
S = 1000 * MS


@pytest.fixture
def schedule():
    return Schedule(lambda work: BatchLimits(8, 100))


def put(schedule, *works, at_ns=0):
    for number, work in enumerate(works, start=len(schedule) + 1):
        work.come(at_ns, number)
        schedule.add(work)
    return works


def request(items=1, model=LAMP, side=2, **options):
    return QueuedRequest(model, np.zeros((items, 1, side, side), np.float32), **options)


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


def test_who_names_little_time_goes_before_who_came_a_moment_earlier_but_not_a_second(schedule):
    [patient] = put(schedule, request(8))
    [hurried] = put(schedule, request(8, deadline_ns=900 * MS), at_ns=400 * MS)
    [too_late] = put(schedule, request(8, deadline_ns=1100 * MS), at_ns=600 * MS)

    assert taken(schedule) == [[hurried], [patient], [too_late]]


def test_a_job_stands_where_a_person_would_who_comes_nine_seconds_later(schedule):
    [job] = put(schedule, request(8, priority=BATCH))
    [sooner] = put(schedule, request(8), at_ns=8 * S)
    [later] = put(schedule, request(8), at_ns=10 * S)

    assert taken(schedule) == [[sooner], [job], [later]]


def test_a_probe_goes_before_all_others_whenever_it_comes(schedule):
    [person] = put(schedule, request(8, deadline_ns=MS))
    [probe] = put(schedule, request(8, priority=PROBE), at_ns=60 * S)

    assert taken(schedule) == [[probe], [person]]


comers = st.tuples(
    st.integers(0, 30_000), st.sampled_from([0, 1, 50, 500, 2000, 60_000]), st.sampled_from([INTERACTIVE, BATCH])
)


@given(st.lists(comers, max_size=40))
def test_nobody_is_overtaken_by_who_comes_more_than_ten_seconds_later_and_no_person_by_who_comes_a_second_later(found):
    schedule = Schedule(lambda work: BatchLimits(8, 100))
    for number, (at_ms, timeout_ms, priority) in enumerate(sorted(found)):
        work = request(8, deadline_ns=timeout_ms and (at_ms + timeout_ms) * MS, priority=priority)
        work.come(at_ms * MS, number)
        schedule.add(work)

    order = [work for [work] in taken(schedule)]

    for place, work in enumerate(order):
        overtaken_by_ns = max((work.submitted_ns, *(earlier.submitted_ns for earlier in order[:place])))
        assert overtaken_by_ns - work.submitted_ns <= (S if work.priority == INTERACTIVE else 10 * S)


def test_a_batch_is_no_larger_than_the_one_with_the_least_time_in_it_allows():
    schedule = Schedule(lambda work: BatchLimits(64, 3 if work.deadline_ns else 64))
    patient, hurried, third, fourth = put(schedule, *(request(deadline_ns=ns) for ns in (0, 2 * S, 0, 0)))

    assert taken(schedule) == [[patient, hurried, third], [fourth]]


def test_who_has_too_little_time_for_a_batch_goes_with_the_next():
    schedule = Schedule(lambda work: BatchLimits(64, 3 if work.deadline_ns else 64))
    patient, hurried, third = put(schedule, request(3), request(deadline_ns=2 * S), request())

    assert taken(schedule) == [[patient], [hurried, third]]


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
    newcomer.come(0, 99)

    foreseen = [batch.works for batch in schedule.batches(newcomer)]

    assert newcomer not in list(schedule)
    schedule.add(newcomer)
    assert taken(schedule) == foreseen


def test_only_the_last_batch_of_a_bucket_may_still_be_joined(schedule):
    put(schedule, request(5), request(5), request(1, OTHER))

    full, last, other = schedule.batches()

    assert (full.is_open, last.is_open, other.is_open) == (False, True, True)
    assert (full.full_cost, last.full_cost, other.full_cost) == (5, 8, 8)


def test_who_is_to_be_alone_shares_no_batch(schedule):
    first, alone, second, also_alone, third = put(
        schedule, request(), request(alone=True), request(), request(alone=True), request()
    )

    foreseen = [batch.works for batch in schedule.batches()]

    assert taken(schedule) == foreseen == [[first, second, third], [alone], [also_alone]]


def test_a_batch_of_one_who_is_alone_waits_for_nobody(schedule):
    put(schedule, request(alone=True))

    [batch] = schedule.batches()

    assert (batch.is_full, batch.full_cost) == (True, 1)
