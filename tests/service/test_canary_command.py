"""`bedplate canary` asks a front end what the bundle on disk knows the answer to."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from bedplate.bundle.bundle import Bundle
from bedplate.commands import cli
from bedplate.commands.canary import ask

from tests.service.engine_tools import write_lamp
from tests.service.lamp import description, numbers, varying


class FrontEnd(BaseHTTPRequestHandler):
    """Says the same to everything, and remembers what came."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.headers["Content-Type"], body))
        self.server.paths.append(self.path)
        if self.server.busy:
            self.server.busy -= 1
            self.send_response(429)
            self.send_header("Retry-After", self.server.retry_after)
            self.end_headers()
            return
        answer = json.dumps({"model": "lamp", "version": "1", "predictions": [self.server.prediction]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def front_end():
    with HTTPServer(("127.0.0.1", 0), FrontEnd) as server:
        server.asked, server.paths = [], []
        server.busy, server.retry_after = 0, "0.01"
        server.prediction = {"label": "bright"}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("make", "content_type"), [(description, "image/*"), (varying, "application/json")])
def test_a_canary_is_sent_as_what_it_is(front_end, make, content_type):
    bundle = Bundle.from_description(make())

    finding = ask(f"http://127.0.0.1:{front_end.server_port}", bundle, "bp_key", timeout_s=10)

    assert finding["ok"], finding
    assert front_end.asked == [(content_type, bundle.canary.content)]


def test_a_busy_front_end_is_asked_again(front_end):
    front_end.busy = 2

    finding = ask(f"http://127.0.0.1:{front_end.server_port}", Bundle.from_description(description()), "bp_key", 10)

    assert finding["ok"], finding
    assert len(front_end.asked) == 3


def test_one_that_is_busy_for_longer_than_there_is_time_is_told_as_that(front_end):
    front_end.busy, front_end.retry_after = 1, "30"

    finding = ask(f"http://127.0.0.1:{front_end.server_port}", Bundle.from_description(description()), "bp_key", 10)

    assert finding["found"].startswith("no answer: HTTP Error 429")
    assert len(front_end.asked) == 1


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ([[1, 2, 3], [4, 5, 6.0005]], "lamp 1: the numbers of expected.json"),
        ([[1, 2, 3], [4, 5, 6.25]], "lamp 1: numbers that are off by up to 0.25, beyond 0.001"),
    ],
)
def test_a_canary_without_a_label_has_its_numbers_compared(front_end, expected, found):
    front_end.prediction = {"output": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}
    expect_bytes = base64.b64encode(json.dumps({"outputs": [expected]}).encode()).decode()
    bundle = Bundle.from_description(numbers("float32", expect_bytes=expect_bytes))

    finding = ask(f"http://127.0.0.1:{front_end.server_port}", bundle, "bp_key", timeout_s=10)

    assert (finding["wanted"], finding["found"]) == ("lamp 1: the numbers of expected.json", found)
    assert finding["ok"] is (found == finding["wanted"])


@pytest.mark.parametrize("output", [[[1, 2, 3]], 7, [[1], [2, 3]], [["1", "2", "3"], ["4", "5", "6"]], None])
def test_an_answer_of_another_form_is_told(front_end, output):
    front_end.prediction = {"output": output}
    bundle = Bundle.from_description(numbers("float32"))

    finding = ask(f"http://127.0.0.1:{front_end.server_port}", bundle, "bp_key", timeout_s=10)

    assert not finding["ok"]
    assert finding["found"].startswith(("no answer: ", "lamp 1: numbers of shape "))


def test_another_answer_than_the_known_one_is_told(front_end):
    bundle = Bundle.from_description(description(canary={"file": "canary.png", "label": "dark"}))

    finding = ask(f"http://127.0.0.1:{front_end.server_port}", bundle, "bp_key", timeout_s=10)

    assert (finding["wanted"], finding["found"], finding["ok"]) == ("lamp 1: dark", "lamp 1: bright", False)


@pytest.mark.parametrize(("aliases", "default"), [({}, "2"), ({"aliases": ["lamp/default=1"]}, "1")])
def test_every_version_is_asked_and_the_default_as_clients_ask_who_name_none(
    front_end, tmp_path, monkeypatch, capsys, aliases, default
):
    for version in ("2", "1"):
        write_lamp(tmp_path / version, version=version)
    settings = {"socket_dir": str(tmp_path), "bundles": [f"{tmp_path}/2", f"{tmp_path}/1"], **aliases}
    (tmp_path / "engine.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setattr("sys.stdin", io.StringIO("bp_key\n"))

    cli.main(["canary", "--settings", f"{tmp_path}/engine.yaml", f"http://127.0.0.1:{front_end.server_port}"])

    named = {"2": "/v1/models/lamp/versions/2/predict", "1": "/v1/models/lamp/versions/1/predict"}
    wanted = [{**named, default: "/v1/models/lamp/predict"}[version] for version in ("2", "1")]
    assert sorted(front_end.paths) == sorted(wanted)
    assert len(capsys.readouterr().out.splitlines()) == 2
