"""`bedplate predict` as a person runs it: against the whole service, and against servers that have their moods."""

import contextlib
import http.server
import json
import os
import pty
import ssl
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.service import text_tools
from tests.service.engine_tools import write_bundle
from tests.service.lamp import png_of
from tests.service.running_service import KEY, SERVICE, running_service

BRIGHT, DARK = png_of([[255, 255], [255, 255]]), png_of([[0, 0], [0, 0]])


@pytest.fixture
def files(tmp_path):
    """By what is in them."""
    content = {
        "bright.png": BRIGHT,
        "dark.png": DARK,
        "broken.png": BRIGHT[:-20],
        "numbers.json": json.dumps({"inputs": [[[[1, 1], [1, 1]]], [[[-1, -1], [-1, -1]]]]}).encode(),
        "tensor": np.ones((1, 1, 2, 2), "<f4").tobytes(),
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return {name.partition(".")[0]: str(tmp_path / name) for name in content}


def predict(url, *arguments, key=KEY, **options):
    environment = {**os.environ, "PYTHONPATH": str(SERVICE), "BEDPLATE_API_KEY": key}
    command = [sys.executable, "-m", "bedplate", "predict", url, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, **options)


def test_each_file_is_a_line_of_a_table(service, files):
    done = predict(service.url, files["bright"], files["dark"])

    assert done.returncode == 0, done.stderr
    head, *rows = [line.split() for line in done.stdout.splitlines()]
    assert head == ["file", "answer", "score", "ms"]
    assert [(row[0], row[1]) for row in rows] == [(files["bright"], "bright"), (files["dark"], "dark")]


def test_programs_get_a_json_object_a_line_in_the_order_of_the_files(service, files):
    asked = [files["dark"], files["bright"]] * 10

    done = predict(service.url, "--json", "--parallel", "4", *asked)

    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["file"] for answer in answers] == asked
    assert [answer["predictions"][0]["label"] for answer in answers] == ["dark", "bright"] * 10


def test_tensors_and_json_are_sent_as_what_they_are(service, files):
    done = predict(service.url, "--json", files["numbers"], files["tensor"])

    answers = [json.loads(line) for line in done.stdout.splitlines()]
    labels = [[found["label"] for found in answer["predictions"]] for answer in answers]
    assert labels == [["bright", "dark"], ["bright"]]


def test_a_file_that_is_refused_fails_alone_with_the_reason(service, files):
    done = predict(service.url, files["bright"], files["broken"], "/nowhere.png")

    assert done.returncode == 1
    answers = done.stdout.splitlines()[1:]
    assert "bright" in answers[0]
    assert "no answer: 422: the picture cannot be decoded" in answers[1]
    assert "check that the file is complete" in answers[1]
    assert "No such file" in answers[2]


def test_a_version_that_is_named_is_asked(service, files):
    assert predict(service.url, files["bright"], "--model", "lamp", "--version", "1").returncode == 0
    done = predict(service.url, files["bright"], "--model", "lamp", "--version", "7")
    assert (done.returncode, "404" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "key", "says"),
    [
        (["nowhere"], KEY, "'nowhere' does not do, wanted https://HOST"),
        (["http://127.0.0.1:1"], KEY, "127.0.0.1: "),
        ([None], "", "there is no API key in $BEDPLATE_API_KEY"),
        ([None, "--key-file", "/nowhere"], KEY, "/nowhere: cannot be read"),
        ([None], "wrong", "401: "),
        ([None, "--address", "127.0.0.1"], KEY, "--address is for https"),
        (["https://127.0.0.1", "--ca", "/dev/null"], KEY, "/dev/null: holds no certificates"),
    ],
)
def test_who_cannot_ask_is_told_why(service, files, arguments, key, says):
    url, *options = arguments

    done = predict(url or service.url, files["bright"], *options, key=key)

    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_bar_on_a_terminal_tells_how_far_it_is(service, files):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        environment = {**os.environ, "PYTHONPATH": str(SERVICE), "BEDPLATE_API_KEY": KEY}
        command = [sys.executable, "-m", "bedplate", "predict", service.url, files["bright"], files["dark"]]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=terminal, timeout=60, check=True)
    shown = os.read(ours, 4096).decode()
    os.close(ours)

    assert "] 1 of 2" in shown
    assert f"[{'#' * 30}] 2 of 2" in shown


TWO_NUMBERS = {"output": [1, 2]}


@contextlib.contextmanager
def moody(*answers, tls=None, prediction=TWO_NUMBERS):
    """A server that gives these (status, headers), one after another, and then 200; yields its address and times.

    Args:
        tls: certificate and key; without them it speaks plain HTTP.
        prediction: what it says with 200.
    """
    left, asked_at = list(answers), []
    answer = json.dumps({"predictions": [prediction]}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            asked_at.append(time.monotonic())
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers = left.pop(0) if left else (200, {})
            body = b"{}" if status != 200 else answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked_at
        server.shutdown()


def test_a_busy_server_is_asked_again_when_it_said(files):
    with moody((429, {"Retry-After": "1"}), (503, {"Retry-After": "0"})) as (url, asked_at):
        done = predict(url, files["tensor"], "--model", "x")

    assert done.returncode == 0
    assert "output of 2" in done.stdout
    assert len(asked_at) == 3
    assert asked_at[1] - asked_at[0] >= 1


def test_a_server_that_stays_busy_is_given_up(files):
    with moody(*[(503, {"Retry-After": "0"})] * 20) as (url, asked_at):
        done = predict(url, files["tensor"], "--model", "x")

    assert (done.returncode, len(asked_at)) == (1, 5)
    assert "no answer: 503" in done.stdout


@pytest.mark.parametrize("prediction", [{"degrees": 90}, "ninety", 90, None, [90], {"items": [90]}, {"label": 90}])
def test_what_a_codec_says_is_shown_as_it_is(files, prediction):
    with moody(prediction=prediction) as (url, _):
        done = predict(url, files["tensor"], "--model", "x")

    assert done.returncode == 0, done.stderr
    assert json.dumps(prediction) in done.stdout


@pytest.fixture
def certificate(tmp_path):
    """Of predict.test, by itself: the files of certificate and key."""
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    name = ["-subj", "/CN=predict.test", "-addext", "subjectAltName=DNS:predict.test"]
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    subprocess.run([*make, *name, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def test_a_name_that_does_not_resolve_yet_is_asked_at_an_address_and_proves_itself(files, certificate):
    with moody(tls=certificate) as (url, _):
        port = url.rpartition(":")[2]
        options = ["--model", "x", "--address", "127.0.0.1", "--ca", certificate[0]]

        right = predict(f"https://predict.test:{port}", files["tensor"], *options)
        wrong = predict(f"https://other.test:{port}", files["tensor"], *options)

    assert (right.returncode, "output of 2" in right.stdout) == (0, True)
    assert (wrong.returncode, "CERTIFICATE_VERIFY_FAILED" in wrong.stdout) == (1, True)


def test_a_text_is_sent_as_text(tmp_path):
    text = tmp_path / "day.txt"
    text.write_text("A very good day")
    bundle = write_bundle(tmp_path / "moods", text_tools.WEIGHTS, text_tools.moods())

    with running_service(tmp_path, bundle=bundle) as service:
        done = predict(service.url, text, "--model", "moods")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:2] == [str(text), "good"]
