"""What the number of a front end means to it."""

import pytest
from bedplate.process.instance import by_preference


@pytest.mark.parametrize(
    ("instance", "order"), [(1, ["a", "b", "c"]), (2, ["b", "c", "a"]), (3, ["c", "a", "b"]), (4, ["a", "b", "c"])]
)
def test_each_front_end_begins_with_another_one(instance, order):
    assert by_preference(["a", "b", "c"], instance) == order


def test_there_may_be_none():
    assert by_preference([], 3) == []
