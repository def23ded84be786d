"""The web as systemd runs it, and both programs as `bedplate serve` runs them: real processes, sockets, signals."""

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.service.engine_tools import GatedLamp, running_engine, write_lamp
from tests.service.lamp import png_of
from tests.service.redis_tools import PASSWORD, PrivateRedis

START_S = 60  # torch on a busy machine
SERVICE = Path(__file__).parents[2] / "service"
KEY = "bp_process-test"
BRIGHT = png_of([[255, 255], [255, 255]])


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_until(condition, timeout_s=START_S):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(0.05)


def ask(port, method, path, body=None, key=KEY):
    """Status, headers and JSON; None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    except ConnectionError:
        return None
    finally:
        connection.close()


def status_of(port, path):
    answer = ask(port, "GET", path)
    return answer and answer[0]


@contextlib.contextmanager
def program(*arguments, **environment):
    process = subprocess.Popen(
        [sys.executable, "-m", "bedplate", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SERVICE), **environment},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def web_settings(tmp_path, decoder_of):
    keys = [{"client": "tests", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}]
    (tmp_path / "api-keys").write_text(json.dumps(keys))
    settings = {
        "engines": [f"{tmp_path}/cpu0.sock"],
        "decoders": [str(decoder_of())],
        "request_timeout_s": 5,
    }
    (tmp_path / "web.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "web.yaml"


@pytest.fixture
def notifications(tmp_path):
    """The datagrams that systemd would get."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(START_S)
        yield sock


def test_a_web_without_an_engine_is_ready_live_and_says_503(web_settings, notifications, tmp_path):
    port = free_port()
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "CREDENTIALS_DIRECTORY": str(tmp_path)}

    with program("web", "--settings", web_settings, "--bind", f"127.0.0.1:{port}", **environment) as web:
        first = notifications.recv(4096)
        wait_until(lambda: status_of(port, "/health/live") == 200)
        predicted = ask(port, "POST", "/v1/models/lamp/predict", BRIGHT)
        refused = ask(port, "POST", "/v1/models/lamp/predict", BRIGHT, key="bp_wrong")
        ready = status_of(port, "/health/ready")
        web.send_signal(signal.SIGTERM)
        output, errors = web.communicate(timeout=20)

    assert first.startswith(b"READY=1")
    assert (predicted[0], ready, refused[0]) == (503, 503, 401)
    assert int(predicted[1]["retry-after"]) > 0
    assert web.returncode == 0
    assert output == ""
    assert all(json.loads(line)["unit"] == "web" for line in errors.splitlines())


def test_what_one_web_answered_the_next_one_takes_from_redis(web_settings, tmp_path):
    server = PrivateRedis(tmp_path)
    shared = {"cache_socket": str(server.socket), "cache_shared_min_ms": 0}
    web_settings.write_text(yaml.safe_dump(yaml.safe_load(web_settings.read_text()) | shared))
    (tmp_path / "redis-cache").write_text(PASSWORD)
    port = free_port()
    answers = []

    def predict():
        status, headers, body = ask(port, "POST", "/v1/models/lamp/predict", BRIGHT)
        answers.append((status, headers.get("cache-status"), json.loads(body)["predictions"][0]["label"]))

    with running_engine(tmp_path / "cpu0.sock", GatedLamp()), contextlib.closing(server):
        server.start()
        for _ in range(2):
            with program(
                "web", "--settings", web_settings, "--bind", f"127.0.0.1:{port}", CREDENTIALS_DIRECTORY=str(tmp_path)
            ):
                wait_until(lambda: status_of(port, "/health/ready") == 200)
                wait_until(lambda: server.admin.info("clients")["connected_clients"] > 1)  # it has probed
                predict()
                predict()
                wait_until(server.admin.dbsize)

    assert answers == [
        (200, "bedplate; fwd=miss", "bright"),
        (200, "bedplate; hit; detail=memory", "bright"),
        (200, "bedplate; hit; detail=shared", "bright"),
        (200, "bedplate; hit; detail=memory", "bright"),
    ]


@pytest.mark.parametrize("instance", [1, 2])
def test_webs_that_know_nothing_of_one_another_ask_different_engines_and_decoders(web_settings, tmp_path, instance):
    """On a quiet host each of them has nothing outstanding: asking the same one, they would wait for each other."""
    lamps = [GatedLamp(), GatedLamp()]
    sockets = [f"{tmp_path}/cpu0.sock", f"{tmp_path}/cpu1.sock"]
    settings = yaml.safe_load(web_settings.read_text())
    own = instance - 1
    decoders = [f"{tmp_path}/nobody.sock"] * 2
    decoders[own] = settings["decoders"][0]
    web_settings.write_text(yaml.safe_dump(settings | {"engines": sockets, "decoders": decoders}))
    port = free_port()

    with (
        socket.socket(socket.AF_UNIX) as silent,
        running_engine(Path(sockets[0]), lamps[0]),
        running_engine(Path(sockets[1]), lamps[1]),
        program(
            *("web", "--settings", web_settings, "--bind", f"127.0.0.1:{port}", "--instance", instance),
            CREDENTIALS_DIRECTORY=str(tmp_path),
        ),
    ):
        silent.bind(f"{tmp_path}/nobody.sock")
        silent.listen()
        wait_until(lambda: status_of(port, "/health/ready") == 200)
        before = [lamp.begun.qsize() for lamp in lamps]
        status, _, _ = ask(port, "POST", "/v1/models/lamp/predict", BRIGHT)
        asked = [lamp.begun.qsize() - count for lamp, count in zip(lamps, before, strict=True)]

    assert status == 200
    assert asked == [own == 0, own == 1]


@pytest.mark.parametrize("password", [None, ""])
def test_a_web_without_the_password_of_its_cache_does_not_start(web_settings, tmp_path, password):
    web_settings.write_text(f"{web_settings.read_text()}\ncache_socket: /nowhere.sock\n")
    if password is not None:
        (tmp_path / "redis-cache").write_text(password)

    with program(
        "web", "--settings", web_settings, "--bind", f"127.0.0.1:{free_port()}", CREDENTIALS_DIRECTORY=str(tmp_path)
    ) as web:
        _, errors = web.communicate(timeout=START_S)

    assert web.returncode == 2
    assert "cache_socket needs Redis's password" in errors


def test_a_web_feeds_the_watchdog(web_settings, notifications, tmp_path):
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "WATCHDOG_USEC": "300000",
    }

    with program("web", "--settings", web_settings, "--bind", f"127.0.0.1:{free_port()}", **environment):
        heard = [notifications.recv(4096) for _ in range(4)]

    assert heard.count(b"WATCHDOG=1") >= 3


@pytest.mark.parametrize("keys", [None, "[]", "not JSON"])
def test_a_web_without_usable_keys_never_says_ready(web_settings, notifications, tmp_path, keys):
    (tmp_path / "api-keys").unlink()
    if keys is not None:
        (tmp_path / "api-keys").write_text(keys)
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "CREDENTIALS_DIRECTORY": str(tmp_path)}

    with program("web", "--settings", web_settings, "--bind", f"127.0.0.1:{free_port()}", **environment) as web:
        _, errors = web.communicate(timeout=START_S)

    assert web.returncode == 2
    assert "keys" in errors
    notifications.setblocking(False)
    with pytest.raises(BlockingIOError):
        notifications.recv(4096)


MALFORMED = [
    b"GET /ping?key=canary-4d1f HTTP/9.9\r\n\r\n",
    b"GET /ping?key=canary-4d1f\r\n\r\n",
    b"canary-4d1f\r\n\r\n",
    b"GET /ping HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer canary-4d1f\r\n\r\n",
    b"POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: canary-4d1f\r\n\r\n",
    b"POST /ping HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\ncanary-4d1f\r\n",
    b"POST /?canary-4d1f HTTP/1.1\r\nHost: x\r\nX-API-Key: canary-4d1f\r\nContent-Length: 99\r\n\r\ncanary-4d1f",
]


def send_and_hang_up(port, data):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(START_S)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while client.recv(4096):
                pass


def test_a_malformed_request_leaves_nothing_of_itself_in_the_log(web_settings, tmp_path):
    port = free_port()
    command = ["web", "--settings", web_settings, "--bind", f"127.0.0.1:{port}"]

    with program(*command, CREDENTIALS_DIRECTORY=str(tmp_path)) as web:
        wait_until(lambda: status_of(port, "/ping") == 200)
        for data in MALFORMED:
            send_and_hang_up(port, data)
        web.send_signal(signal.SIGTERM)
        _, errors = web.communicate(timeout=START_S)

    assert "web has stopped" in errors
    assert "canary-4d1f" not in errors


@pytest.mark.parametrize(
    ("instance", "says"),
    [([], "metrics_dir is set, and --instance is not"), (["--instance", "../1"], "--instance: '../1'")],
)
def test_a_web_that_cannot_name_its_metrics_socket_does_not_start(web_settings, tmp_path, instance, says):
    settings = yaml.safe_load(web_settings.read_text()) | {"metrics_dir": str(tmp_path)}
    web_settings.write_text(yaml.safe_dump(settings))

    with program("web", "--settings", web_settings, *instance, CREDENTIALS_DIRECTORY=str(tmp_path)) as web:
        _, errors = web.communicate(timeout=START_S)

    assert web.returncode == 2
    assert says in errors


def children_of(process):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in listed.stdout.split()]


def is_alive(pid):
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and ") Z " not in state.read_text()


def test_serve_answers_and_leaves_nothing_behind_when_it_is_stopped(tmp_path):
    port = free_port()
    bundle = write_lamp(tmp_path / "lamp")

    with program("serve", bundle, "--port", port, BEDPLATE_API_KEY=KEY, TMPDIR=str(tmp_path)) as serve:
        wait_until(lambda: status_of(port, "/health/ready") == 200)
        status, _, body = ask(port, "POST", "/v1/models/lamp/predict", BRIGHT)
        children = children_of(serve)
        deadline = time.monotonic() + 60
        while serve.poll() is None and time.monotonic() < deadline:
            serve.send_signal(signal.SIGTERM)  # impatient people and `timeout` send more than one
            time.sleep(0.05)
        _, errors = serve.communicate(timeout=1)

    assert status == 200
    assert json.loads(body)["predictions"][0]["label"] == "bright"
    assert len(children) == 3  # engine, decoder, front end
    assert serve.returncode == 0
    assert "Traceback" not in errors
    assert not any(map(is_alive, children))
    assert not list(tmp_path.glob("bedplate-*"))


def test_serve_says_why_a_bundle_cannot_be_served_and_ends(tmp_path):
    bundle = write_lamp(tmp_path / "lamp")
    (bundle / "weights.safetensors").write_bytes(b"tampered")

    with program("serve", bundle, "--port", free_port(), BEDPLATE_API_KEY=KEY) as serve:
        _, errors = serve.communicate(timeout=START_S)

    assert serve.returncode == 1
    assert "weights.safetensors" in errors
