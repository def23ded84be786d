"""The engine as systemd runs it: a process with settings, a notify socket and signals."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from bedplate.wire import Type

from tests.service.engine_tools import Peer, bright, logits_of, predict_frame, raw, write_lamp
from tests.service.lamp import lamp_logits

START_S = 60  # torch on a busy machine
SERVICE = Path(__file__).parents[2] / "service"


class Systemd:
    """The other end of $NOTIFY_SOCKET."""

    def __init__(self, folder):
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(START_S)
        self._socket.bind(self.address)

    def next(self):
        return self._socket.recv(4096).decode().splitlines()

    def hears_nothing_for(self, seconds):
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(START_S)
        return False

    def close(self):
        self._socket.close()


@pytest.fixture
def folder(tmp_path):
    write_lamp(tmp_path / "lamp")
    settings = {"socket_dir": str(tmp_path), "bundles": [str(tmp_path / "lamp")]}
    (tmp_path / "engine.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.fixture
def systemd(folder):
    systemd = Systemd(folder)
    yield systemd
    systemd.close()


@contextlib.contextmanager
def process(folder, device="cpu0", **environment):
    engine = subprocess.Popen(
        [sys.executable, "-m", "bedplate", "engine", "--settings", str(folder / "engine.yaml"), "--device", device],
        env={**os.environ, "PYTHONPATH": str(SERVICE), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield engine
    finally:
        engine.kill()
        engine.communicate()


def events(stderr):
    return [json.loads(line)["event"] for line in stderr.splitlines()]


def test_an_engine_says_ready_after_its_warm_up_answers_and_drains_on_sigterm(folder, systemd):
    path = folder / "cpu0.sock"
    with process(folder, NOTIFY_SOCKET=systemd.address) as engine:
        assert systemd.next()[0] == "READY=1"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        peer = Peer(path)
        peer.predict(1, bright(8, 0.5))
        assert np.allclose(logits_of(peer.receive()), lamp_logits(bright(8, 0.5)))

        # All in flight when the signal comes: read by the engine together, answered one after another.
        peer.send_raw(b"".join(raw(predict_frame(i, bright(8))) for i in range(2, 50)))
        first = peer.receive()
        engine.send_signal(signal.SIGTERM)
        answers = [first, *(peer.receive() for _ in range(47))]

        assert systemd.next() == ["STOPPING=1"]
        assert peer.is_closed_by_engine()
        assert engine.wait(START_S) == 0
        assert sorted(answer.id for answer in answers) == list(range(2, 50))
        assert {answer.type for answer in answers} == {Type.RESULT}
        assert not path.exists()
        assert events(engine.stderr.read()) == [
            "keeps to its cores",
            "bundle_signers is not set: bundles are compared with their sums, whoever wrote those",
            "model loaded",
            "ready",
            "draining",
            "stopped",
        ]
        peer.leave()


def test_an_engine_keeps_to_its_core(folder, systemd):
    with process(folder, NOTIFY_SOCKET=systemd.address) as engine:
        assert systemd.next()[0] == "READY=1"

        assert os.sched_getaffinity(engine.pid) == {max(os.sched_getaffinity(0))}


def test_an_idle_engine_feeds_the_watchdog(folder, systemd):
    with process(folder, NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="300000"):
        assert systemd.next()[0] == "READY=1"

        assert [systemd.next(), systemd.next()] == [["WATCHDOG=1"], ["WATCHDOG=1"]]


def test_an_engine_takes_the_place_of_one_that_was_killed(folder, systemd):
    with process(folder, NOTIFY_SOCKET=systemd.address) as engine:
        assert systemd.next()[0] == "READY=1"
        engine.kill()
        engine.wait(START_S)
        with pytest.raises(ConnectionRefusedError):
            Peer(folder / "cpu0.sock")

    with process(folder, NOTIFY_SOCKET=systemd.address):
        assert systemd.next()[0] == "READY=1"
        peer = Peer(folder / "cpu0.sock")
        peer.predict(1, bright())
        assert np.allclose(logits_of(peer.receive()), lamp_logits(bright()))
        peer.leave()


def tamper(folder):
    with (folder / "lamp" / "weights.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")


def list_twice(folder):
    settings = {"socket_dir": str(folder), "bundles": [str(folder / "lamp")] * 2}
    (folder / "engine.yaml").write_text(yaml.safe_dump(settings))


def break_a_promise(folder):
    write_lamp(folder / "lamp", network=["flatten"], weights={})


@pytest.mark.parametrize(
    ("spoil", "device", "told"),
    [
        (tamper, "cpu0", "weights.safetensors: has sha256"),
        (list_twice, "cpu0", "lamp 1 is listed twice"),
        (break_a_promise, "cpu0", "network gives float32 (1, 4), bundle.yaml says float32 (1, 2)"),
        (lambda folder: None, "tpu0", "--device: 'tpu0' does not do"),
        (lambda folder: None, "../cpu0", "--device: '../cpu0' does not do"),
    ],
)
def test_an_engine_that_cannot_serve_says_why_and_never_binds(folder, spoil, device, told):
    spoil(folder)

    with process(folder, device) as engine:
        _, stderr = engine.communicate(timeout=START_S)

    assert engine.returncode == 2
    assert told in events(stderr)[-1]
    assert not list(folder.glob("*.sock"))
