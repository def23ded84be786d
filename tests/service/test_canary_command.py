"""`bedplate canary` asks a front end what the bundle on disk knows the answer to."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from bedplate.bundle import Bundle
from bedplate.canary import ask

from tests.service.lamp import description, varying


class FrontEnd(BaseHTTPRequestHandler):
    """Says 'bright' to everything, and remembers what came."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.headers["Content-Type"], body))
        answer = json.dumps({"model": "lamp", "version": "1", "predictions": [{"label": "bright"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.fixture
def front_end():
    with HTTPServer(("127.0.0.1", 0), FrontEnd) as server:
        server.asked = []
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


def test_another_answer_than_the_known_one_is_told(front_end):
    bundle = Bundle.from_description(description(canary={"file": "canary.png", "label": "dark"}))

    finding = ask(f"http://127.0.0.1:{front_end.server_port}", bundle, "bp_key", timeout_s=10)

    assert (finding["wanted"], finding["found"], finding["ok"]) == ("lamp 1: dark", "lamp 1: bright", False)
