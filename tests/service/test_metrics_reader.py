"""All units at once, within one time limit, and only those that said everything."""

import contextlib
import socket
import threading
import time

import pytest
from bedplate.metrics import reader
from bedplate.metrics.reader import read_all
from bedplate.telemetry.exposition import END


@contextlib.contextmanager
def unit(path, behave):
    """A unit's socket; `behave` gets each connection, one after another."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=serve, args=(listener, behave))
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def serve(listener, behave):
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                behave(connection)


def tells(text):
    return lambda connection: connection.sendall(text)


def hangs(connection):
    connection.recv(1)  # until the reader gives up


def trickles(connection):
    while True:
        connection.sendall(b"a")
        time.sleep(0.01)


def test_what_units_tell_is_returned_whole(tmp_path):
    long = b"x" * 200_000 + b"\n" + END

    with unit(tmp_path / "a.sock", tells(b"a\n" + END)) as a, unit(tmp_path / "b.sock", tells(long)) as b:
        told = read_all([a, b])

    assert told == {a: "a\n# EOF\n", b: long.decode()}


@pytest.mark.parametrize("behave", [hangs, trickles])
def test_a_hung_unit_costs_its_own_figures_and_one_time_limit(tmp_path, behave):
    with (
        unit(tmp_path / "a.sock", behave) as hung,
        unit(tmp_path / "b.sock", tells(b"b\n" + END)) as well,
        unit(tmp_path / "c.sock", behave) as hung_too,
    ):
        started_s = time.monotonic()
        told = read_all([hung, well, hung_too], timeout_s=0.3)
        took_s = time.monotonic() - started_s

    assert told == {well: "b\n# EOF\n"}
    assert took_s < 0.55


def test_a_unit_that_takes_no_connection_at_all_is_not_waited_for(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(tmp_path / "a.sock"))
        listener.listen(0)
        for _ in range(2):  # as many as a queue of length 0 holds, and one more
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            waiting.connect_ex(str(tmp_path / "a.sock"))

        started_s = time.monotonic()
        told = read_all([tmp_path / "a.sock"], timeout_s=10)

    assert told == {}
    assert time.monotonic() - started_s < 5


@pytest.mark.parametrize("text", [b"", b"a 1\n", b"a 1\nb", b"a 1\n# EO"])
def test_a_unit_that_dies_while_it_tells_is_not_believed(tmp_path, text):
    with unit(tmp_path / "a.sock", tells(text)) as path:
        assert read_all([path]) == {}


def test_a_unit_that_tells_without_end_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_MAX_BYTES", 100_000)

    with unit(tmp_path / "a.sock", tells(b"x" * 200_000 + END)) as path:
        assert read_all([path]) == {}


@pytest.mark.parametrize("leave", ["nothing", "dead socket", "file", "long path"])
def test_a_unit_that_is_not_there_is_left_out(tmp_path, leave):
    path = tmp_path / ("a.sock" if leave != "long path" else "x" * 120)
    if leave == "dead socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif leave == "file":
        path.write_text("a 1\n# EOF\n")

    assert read_all([path]) == {}
