"""Hostile bytes, slow bytes and many bytes, sent to the front end itself."""

from __future__ import annotations

import socket

import pytest

from tests.raw_http.corpus import Service, cases
from tests.raw_http.talk import ask, complaints, talk
from tests.service.running_service import KEY, running_service

LAMP = Service(
    host="127.0.0.1",
    key=KEY,
    model="lamp",
    tensor={"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 1, 1, 1]},
)
CASES = cases(LAMP)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def connect(service):
    return lambda: socket.create_connection(("127.0.0.1", service.port), 10)


def test_the_corpus_is_as_large_as_it_is_said_to_be():
    assert len({case.name for case in CASES}) == len(CASES) >= 150


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_hostile_request_gets_one_answer_or_none_and_the_next_one_its_own(connect, case):
    with connect() as bystander:
        assert ask(bystander, LAMP, "before")

        told = talk(connect, LAMP, case)

        assert not complaints(case, told, strict=True)
        assert ask(bystander, LAMP, "after")
