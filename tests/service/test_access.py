"""Who may ask what: keys, public routes, and what the health routes say."""

import asyncio
import hashlib
import json
import re
from pathlib import Path

import pytest
from bedplate.errors import EngineUnavailable
from bedplate.process.settings import SettingsError
from bedplate.web.app import create_app
from bedplate.web.auth import PUBLIC_PATHS, ApiKeys
from bedplate.web.metrics import WebMetrics
from bedplate.web.settings import WebSettings
from falcon.inspect import inspect_routes

from tests.service.lamp import FakeEngines, description, lamp_logits


def paths():
    """What the router serves, asked of an application of its own: a new route is tested without being named here."""
    web = WebSettings(engines=(Path("/nowhere.sock"),))
    app = create_app(web, FakeEngines(), ApiKeys({}), WebMetrics())
    return {re.sub(r"{\w+}", "lamp", route.path) for route in inspect_routes(app)}


def test_only_these_routes_are_public():
    assert paths() & PUBLIC_PATHS == {"/ping", "/health", "/health/live", "/health/ready"} == PUBLIC_PATHS


@pytest.mark.parametrize("path", [*sorted(paths() - PUBLIC_PATHS), "/", "/no/such/route", "/health/", "//ping"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer bp_wrong"}, {"Authorization": "Basic YTpi"}, {"X-API-Key": "bp_wrong"}],
)
def test_without_the_right_key_every_other_route_is_401(client_of, engines, path, method, headers):
    client = client_of(engines)
    given = {"Authorization": "", **headers}

    result = client.simulate_request(method, path, headers=given)

    assert result.status_code == 401
    assert result.headers["www-authenticate"] == "Bearer"
    if path.startswith("/v2"):
        assert result.json.keys() == {"error"}
    else:
        assert result.json["type"].startswith("urn:bedplate:problem:")


@pytest.mark.parametrize("path", sorted(PUBLIC_PATHS))
def test_health_needs_no_key(client_of, engines, path):
    result = client_of(engines).simulate_get(path, headers={"Authorization": ""})

    assert result.status_code == 200


def test_a_key_is_also_taken_from_its_own_header(client):
    result = client.simulate_get("/v1/models", headers={"Authorization": "", "X-API-Key": "bp_test-key"})

    assert result.status_code == 200


def test_a_refused_credential_is_logged_as_security_without_the_key(client, caplog):
    client.simulate_get("/v1/models", headers={"Authorization": "Bearer bp_guessed"})

    [record] = [record for record in caplog.records if record.name == "bedplate.security"]
    assert record.path == "/v1/models"
    assert "bp_guessed" not in str(vars(record))


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '[{"client": "a"}]', '[{"client": "a", "sha256": "short"}]', "[1]", '"text"']
)
def test_a_useless_list_of_keys_stops_the_start(tmp_path, content):
    path = tmp_path / "keys"
    path.write_text(content)

    with pytest.raises(SettingsError, match="keys"):
        ApiKeys.read(path)


def test_unknown_routes_and_methods_are_problems(client):
    missing, wrong = client.simulate_get("/v1/nothing"), client.simulate_delete("/v1/models")

    assert (missing.status_code, missing.json["type"]) == (404, "urn:bedplate:problem:unknown-route")
    assert (wrong.status_code, wrong.json["type"]) == (405, "urn:bedplate:problem:method-not-allowed")
    assert "GET" in wrong.headers["allow"]


def test_ready_means_that_the_canary_was_answered_rightly(client):
    assert client.simulate_get("/health/ready").json == {"status": "ready"}


def test_a_wrong_answer_to_the_canary_is_not_ready(client, monkeypatch):
    monkeypatch.setattr("tests.service.lamp.lamp_logits", lambda items: -lamp_logits(items))

    result = client.simulate_get("/health/ready")

    assert (result.status_code, result.json) == (503, {"status": "not ready"})


def test_without_an_engine_live_is_ok_and_ready_is_503_with_retry_after(client, engines):
    engines.error = EngineUnavailable("gone")

    live, ready = client.simulate_get("/health/live"), client.simulate_get("/health/ready")

    assert live.status_code == 200
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "5")


def test_many_who_ask_for_readiness_cost_one_canary(client, engines):
    for _ in range(20):
        client.simulate_get("/health/ready")

    assert len(engines.asked) == 1


def test_detailed_health_has_each_part_with_its_latency(client):
    document = client.simulate_get("/health/detailed").json

    [model] = document["models"]
    assert (model["name"], model["canary"]) == ("lamp", True)
    assert model["latency_ms"] > 0
    assert document["system"]["web_max_memory_mib"] > 10


def test_the_list_of_models_tells_what_goes_in_and_out(client):
    [model] = client.simulate_get("/v1/models").json["models"]

    assert model["inputs"] == [{"name": "image", "dtype": "float32", "shape": [1, 2, 2]}]
    assert model["labels"] == ["dark", "bright"]


def test_the_list_of_models_tells_which_versions_are_loaded_and_what_they_are_called(client, engines):
    aliases = {"lamp": {"default": "2", "stable": "1"}}
    engines.serve(description(), description(version="2"), aliases=aliases)

    [model] = client.simulate_get("/v1/models").json["models"]

    assert model["version"] == "2"
    assert model["versions"] == ["1", "2"]
    assert model["aliases"] == {"default": "2", "stable": "1"}


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "line\r\nInjected: 1", "é"])
def test_a_request_id_that_is_none_is_replaced(client_of, engines, given):
    async def ask(scope, app):
        sent = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(event):
            sent.append(event)

        await app(scope, receive, send)
        return dict(sent[0]["headers"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/ping",
        "query_string": b"",
        "headers": [(b"x-request-id", given.encode("latin-1"))],
    }

    headers = asyncio.run(ask(scope, client_of(engines).app))

    assert re.fullmatch(rb"[0-9a-f]{32}", headers[b"x-request-id"])


def test_a_good_request_id_comes_back(client):
    result = client.simulate_get("/no/such", headers={"X-Request-ID": "abc-123"})

    assert json.loads(result.text)["request_id"] == result.headers["x-request-id"] == "abc-123"


def test_only_keys_that_are_known_are_remembered():
    keys = ApiKeys({hashlib.sha256(b"bp_ours").hexdigest(): "us"})

    found = [keys.client_of(key) for key in ("bp_ours", "bp_ours", "bp_wrong", "bp_wrong")]

    assert found == ["us", "us", None, None]
    assert len(keys._known) == 1
