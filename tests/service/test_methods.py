"""What can be got can be asked for its head alone, and each route says what it takes."""

import asyncio

import pytest
import uvloop
from bedplate.web.app import create_app
from bedplate.web.auth import ApiKeys
from bedplate.web.metrics import WebMetrics
from bedplate.web.settings import WebSettings
from falcon.inspect import inspect_routes

from tests.service.conftest import API_KEY
from tests.service.direct_tools import served
from tests.service.lamp import FakeEngines


def routes():
    app = create_app(WebSettings(engines=()), FakeEngines(), ApiKeys({}), WebMetrics())
    return {route.path: {one.method for one in route.methods if not one.internal} for route in inspect_routes(app)}


ROUTES = routes()


def path_of(template):
    return template.replace("{name}", "lamp").replace("{version}", "1")


async def talk(app, request):
    """Everything that comes back."""
    async with served(app, app.direct) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return answer


def ask(client, method, path, key=f"X-API-Key: {API_KEY}\r\n"):
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Request-ID: abc\r\n{key}Connection: close\r\n\r\n"
    head, _, body = uvloop.run(talk(client.app, request.encode())).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize("template", [path for path, methods in ROUTES.items() if "GET" in methods])
def test_what_can_be_got_answers_head_with_the_same_fields(client, template):
    path = path_of(template)
    got, asked = ask(client, "GET", path), ask(client, "HEAD", path)

    assert asked[0] == got[0]
    assert asked[2] == b""
    without = {"content-length", "date"} if "detailed" in path else {"date"}
    assert {k: v for k, v in asked[1].items() if k not in without} == {
        k: v for k, v in got[1].items() if k not in without
    }


@pytest.mark.parametrize("template", ROUTES)
def test_each_route_says_what_it_takes(client, template):
    status, fields, body = ask(client, "OPTIONS", path_of(template))
    refused, told, _ = ask(client, "DELETE", path_of(template))

    assert (status, body, refused) == (204, b"", 405)
    assert set(fields["allow"].upper().split(", ")) == ROUTES[template] >= {"OPTIONS"}
    assert set(told["allow"].upper().split(", ")) == ROUTES[template]
    assert ("HEAD" in ROUTES[template]) == ("GET" in ROUTES[template])


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_neither_needs_less_than_a_key(client, method):
    assert ask(client, method, "/v1/models", key="")[0] == 401
    assert ask(client, method, "/ping", key="")[0] in (200, 204)


def test_the_root_of_v2_is_the_same_with_a_slash(client):
    assert ask(client, "GET", "/v2/")[2] == ask(client, "GET", "/v2")[2] != b""
