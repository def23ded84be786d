"""Whoever connects gets every figure and is hung up on; whoever does not read costs the others nothing."""

import asyncio
import socket
import threading

import pytest
import uvloop
from bedplate.telemetry import exposition
from bedplate.telemetry.exposition import END, Exposition
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from tests.service.engine_tools import DEADLINE_S, wait_until


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    Counter("lamps", "Lamps that were seen", ["colour"], registry=registry).labels("red").inc(3)
    return registry


@pytest.fixture
def told(tmp_path, registry):
    """An exposition in a loop of its own; reading it has to take turns with nobody."""
    loop = uvloop.new_event_loop()
    exposition = Exposition(tmp_path / "web@1.sock", registry, read_timeout_s=1.0)
    loop.run_until_complete(exposition.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield exposition
    loop.call_soon_threadsafe(exposition.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(DEADLINE_S)
    loop.close()


def connect(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE_S)
    sock.connect(str(path))
    return sock


def read(path):
    with connect(path) as sock, sock.makefile("rb") as stream:
        return stream.read()


def fill(registry):
    """More than a socket takes before anybody reads."""
    Counter("verbose", "x" * 4_000_000, registry=registry)


def test_a_connection_gets_all_figures_and_is_closed(told, tmp_path):
    told.read_timeout_s = 600

    data = read(tmp_path / "web@1.sock")

    assert b'lamps_total{colour="red"} 3.0\n' in data
    assert data.endswith(END)


def test_when_series_began_is_not_told(told, tmp_path):
    families = text_string_to_metric_families(read(tmp_path / "web@1.sock").decode())

    assert [family.name for family in families] == ["lamps"]


def test_a_reader_that_does_not_read_is_hung_up_on(told, registry, tmp_path):
    fill(registry)

    with connect(tmp_path / "web@1.sock"):
        wait_until(lambda: told.readers)
        wait_until(lambda: not told.readers)


def test_many_readers_that_do_not_read_do_not_pile_up(told, registry, tmp_path):
    fill(registry)
    idle = [connect(tmp_path / "web@1.sock") for _ in range(4)]
    wait_until(lambda: len(told.readers) == 4)

    with connect(tmp_path / "web@1.sock") as fifth:
        refused = fifth.recv(1)
        waiting = len(told.readers)

    assert (refused, waiting) == (b"", 4)
    for sock in idle:
        sock.close()
    wait_until(lambda: not told.readers)
    assert read(tmp_path / "web@1.sock").endswith(END)


def test_the_socket_goes_when_the_process_does(tmp_path, registry):
    async def start_and_close():
        exposition = Exposition(tmp_path / "web@1.sock", registry)
        await exposition.start()
        was_there = (tmp_path / "web@1.sock").is_socket()
        exposition.close()
        return was_there

    assert asyncio.run(start_and_close())
    assert not (tmp_path / "web@1.sock").exists()


def test_a_process_that_cannot_tell_its_figures_goes_on_without(tmp_path, registry, caplog):
    exposition = Exposition(tmp_path / "absent" / "web@1.sock", registry)

    asyncio.run(exposition.start())
    exposition.close()

    assert "metrics_dir: cannot bind" in caplog.text


def test_a_process_tells_its_memory_where_proc_has_processes_only(tmp_path, monkeypatch):
    (tmp_path / "self").symlink_to("/proc/self")  # as ProcSubset=pid leaves it: no /proc/stat
    registry = CollectorRegistry()

    exposition._Process(proc=str(tmp_path), registry=registry)

    assert registry.get_sample_value("process_resident_memory_bytes") > 1e6
    assert registry.get_sample_value("process_start_time_seconds") > 1e9
