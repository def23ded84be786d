"""The document of all routes, against the router and against the service as it runs."""

from __future__ import annotations

import json
import re

import pytest
import schemathesis
from bedplate.web import openapi
from bedplate.web.problems import STATUS
from falcon.inspect import inspect_routes

from tests.service.fuzz_openapi import fuzz
from tests.service.running_service import KEY

# Each operation, in all phases of schemathesis. `make fuzz` takes 1,000.
EXAMPLES = 30
DOCUMENT = json.loads(openapi.document())
OPERATIONS = {
    (path, method.upper()): operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
}


def test_every_route_and_method_is_described_and_nothing_else(client):
    routes = inspect_routes(client.app)

    there = {(route.path, method.method) for route in routes for method in route.methods if not method.internal}
    # Which go with each route, as the document says in its text.
    there = {(path, method) for path, method in there if method not in ("HEAD", "OPTIONS")}

    assert set(OPERATIONS) == there


def codes_of(response):
    """The codes that a documented problem can have."""
    [media] = response["content"].values()
    return [kind.removeprefix("urn:bedplate:problem:") for kind in media["schema"]["properties"]["type"]["enum"]]


def test_every_error_is_documented_with_its_status():
    responses = [one for name, one in DOCUMENT["components"]["responses"].items() if not name.startswith("V2")]

    documented = {
        code: media["schema"]["properties"]["status"]["const"]
        for response in responses
        for media in response["content"].values()
        for code in codes_of(response)
    }

    # What Falcon or the parser refuses has no class of its own.
    assert documented == {error.code: status for error, status in STATUS.items()} | {"bad-request": 400}


def test_errors_of_v2_have_the_statuses_of_v1():
    names = set(DOCUMENT["components"]["responses"])

    assert {name for name in names if name.startswith("V2")} == {f"V2{name}" for name in names if name[:2] != "V2"}


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_an_operation_can_be_answered_with_what_its_kind_can_meet(path, method):
    statuses = set(map(int, OPERATIONS[path, method]["responses"]))

    public = OPERATIONS[path, method].get("security") == []
    assert statuses >= ({200, 400, 500} if public else {200, 400, 401, 500})
    if re.search("/(predict|infer)$", path):
        assert statuses == {200, *STATUS.values()} - {405}


def examples():
    """Each request of the document that has a body, with the answer that is documented beside it."""
    for (path, method), operation in OPERATIONS.items():
        answers = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("examples", {})
        content = operation.get("requestBody", {}).get("content", {})
        for name, example in content.get("application/json", {}).get("examples", {}).items():
            yield pytest.param(path, method, example["value"], answers[name]["value"], id=f"{method} {path} {name}")
        if not content:
            yield pytest.param(path, method, None, None, id=f"{method} {path}")


@pytest.mark.parametrize(("path", "method", "body", "answer"), list(examples()))
def test_an_example_is_answered_as_it_says(service, path, method, body, answer):
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    parameters = {"name": "lamp", "version": "1"}
    headers = {"Authorization": f"Bearer {KEY}"}

    case = operation.Case(path_parameters=parameters, body=body, media_type="application/json", headers=headers)
    response = case.call(base_url=service.url)

    assert response.status_code == 200
    case.validate_response(response)
    if answer is not None:
        found = response.json()
        assert re.fullmatch("[0-9a-f]{32}", found.pop("request_id", "0" * 32))
        assert found == {key: value for key, value in answer.items() if key != "request_id"}


def test_nothing_that_is_generated_breaks_the_contract(service, tmp_path):
    found = fuzz(service, tmp_path, EXAMPLES)

    assert found.returncode == 0, found.stdout + found.stderr
