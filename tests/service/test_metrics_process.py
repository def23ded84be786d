"""The metrics program as systemd runs it: a socket that is passed, units that live, die and hang."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
import yaml
from bedplate.metrics.server import Server

from tests.service.test_processes import (
    SERVICE,
    START_S,
    ask,
    free_port,
    notifications,
    program,
    wait_until,
    web_settings,
)

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SERVICE)}
__all__ = ["notifications", "web_settings"]  # fixtures
# What systemd does: the socket as file descriptor 3, and the process id that it is meant for.
PASS_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "bedplate", *sys.argv[2:]])
"""


@pytest.fixture
def metrics_settings(tmp_path):
    (tmp_path / "figures").mkdir()
    sockets = [f"{tmp_path}/figures/web@1.sock", f"{tmp_path}/figures/web@2.sock"]
    (tmp_path / "metrics.yaml").write_text(yaml.safe_dump({"sockets": sockets}))
    return tmp_path / "metrics.yaml"


def scrape(port, method="GET", path="/metrics"):
    """Status and text; None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def test_a_real_web_is_told_of_and_a_hung_or_dead_one_is_down(web_settings, metrics_settings, tmp_path):
    settings = yaml.safe_load(web_settings.read_text()) | {"metrics_dir": f"{tmp_path}/figures"}
    web_settings.write_text(yaml.safe_dump(settings))
    web_port, port = free_port(), free_port()
    web = ["web", "--settings", web_settings, "--bind", f"127.0.0.1:{web_port}", "--instance", "1"]
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}

    with (
        program(*web, **credentials) as web,
        program("metrics", "--settings", metrics_settings, "--bind", f"127.0.0.1:{port}") as metrics,
    ):
        wait_until(lambda: (tmp_path / "figures/web@1.sock").exists() and scrape(port))
        wait_until(lambda: ask(web_port, "GET", "/v1/models", key="bp_wrong"))
        _, while_alive = scrape(port)
        os.kill(worker_of(web), signal.SIGSTOP)
        hung_status, while_hung = scrape(port)
        os.kill(worker_of(web), signal.SIGCONT)
        web.send_signal(signal.SIGTERM)
        web.communicate(timeout=START_S)
        _, after = scrape(port)
        metrics.send_signal(signal.SIGTERM)
        metrics.communicate(timeout=START_S)

    assert 'bedplate_unit_up{unit="web@1"} 1.0' in while_alive
    assert 'bedplate_unit_up{unit="web@2"} 0.0' in while_alive
    assert 'bedplate_errors_total{type="wrong-credential",unit="web@1"} 1.0' in while_alive
    assert hung_status == 200
    assert 'bedplate_unit_up{unit="web@1"} 0.0' in while_hung
    assert 'bedplate_unit_up{unit="web@1"} 0.0' in after
    assert not (tmp_path / "figures/web@1.sock").exists()
    assert metrics.returncode == 0


def worker_of(web):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(web.pid)], capture_output=True, text=True, check=True)
    (pid,) = listed.stdout.split()
    return int(pid)


def test_it_answers_on_the_socket_that_systemd_passes_and_says_ready(metrics_settings, notifications, tmp_path):
    environment = {**ENVIRONMENT, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        command = [sys.executable, "-c", PASS_SOCKET, str(fd), "metrics", "--settings", str(metrics_settings)]
        with subprocess.Popen(command, env=environment, pass_fds=[fd], stderr=subprocess.DEVNULL) as metrics:
            try:
                first = notifications.recv(4096)
                status, text = scrape(listener.getsockname()[1])
            finally:
                metrics.terminate()

    assert first.startswith(b"READY=1")
    assert (status, text.count("bedplate_unit_up{")) == (200, 2)


@pytest.mark.parametrize("bind", [[], ["--bind", "nonsense"], ["--bind", "127.0.0.1:99999"]])
def test_without_a_socket_it_says_what_it_wants(metrics_settings, bind):
    with program("metrics", "--settings", metrics_settings, *bind) as metrics:
        _, errors = metrics.communicate(timeout=START_S)

    assert metrics.returncode == 2
    assert "HOST:PORT" in errors


def test_it_loads_neither_torch_nor_falcon():
    code = "import sys, bedplate.metrics.main; print({'torch', 'falcon', 'numpy'} & set(sys.modules))"

    loaded = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True
    )

    assert loaded.stdout.strip() == "set()"


@pytest.fixture
def served():
    """A server in this process that tells one line."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Server(listener, lambda: b"a 1\n") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield listener.getsockname()[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("GET", "/metrics?name[]=a", 200),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/metrics", 404),
        ("HEAD", "/metrics", 404),
        ("TRACE", "/metrics", 404),
        ("DELETE", "/-/quit", 404),
    ],
)
def test_get_metrics_is_all_there_is(served, method, path, status):
    assert scrape(served, method, path)[0] == status


def test_clients_that_say_nothing_are_bounded_and_do_not_keep_prometheus_out_for_long(served):
    idle = [socket.create_connection(("127.0.0.1", served)) for _ in range(8)]
    with socket.create_connection(("127.0.0.1", served)) as ninth:
        ninth.settimeout(5)
        assert ninth.recv(1) == b""

    for client in idle:
        client.close()
    wait_until(lambda: has_answer(served))


def has_answer(port):
    try:
        return scrape(port)[0] == 200
    except (ConnectionError, http.client.HTTPException):
        return False


def test_an_order_to_stop_is_followed_when_a_thread_has_just_done_its_work(monkeypatch):
    start = threading.Thread.start

    def ordered_to_stop(thread):
        start(thread)
        thread.join()
        sys.exit(0)  # as the handler of SIGTERM, in the middle of whatever runs

    server = Server(socket.create_server(("127.0.0.1", 0)), lambda: b"")
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(threading.Thread, "start", ordered_to_stop)
    theirs.close()

    with server, pytest.raises(SystemExit):
        server.process_request(ours, None)
