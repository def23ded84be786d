"""The corpus of tests/raw_http through the balancer, over TLS, and a bystander who must never get another's answer."""

import socket
import ssl

import pytest

from tests.raw_http.corpus import Service, cases
from tests.raw_http.talk import ask, complaints, talk
from tools.deployment import SERVER_NAME

PICTURE = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 64}


@pytest.fixture
def connect(fleet):
    context = ssl.create_default_context(cafile=str(fleet.authority))
    context.set_alpn_protocols(["http/1.1"])

    def connect():
        plain = socket.create_connection((fleet.address, 443), 10)
        return context.wrap_socket(plain, server_hostname=SERVER_NAME)

    return connect


def test_no_hostile_request_takes_an_answer_from_its_place(fleet, connect):
    service = Service(SERVER_NAME, fleet.api_key, "digits", PICTURE)

    wrong = {}
    with connect() as bystander:
        for number, case in enumerate(cases(service)):
            found = complaints(case, talk(connect, service, case), strict=False)
            # At once, so that it is sent to the front end on the connection that the case has used.
            if not ask(bystander, service, f"bystander-{number}"):
                found.append("a bystander did not get its own answer")
            if found:
                wrong[case.name] = found

    assert not wrong


def test_the_description_of_the_routes_is_served(ask):
    answer = ask("GET", "/openapi.json")

    assert answer.status == 200
    assert "/v2/models/{name}/infer" in answer.json["paths"]
