"""What the measurements take for systemd: its watchdog by a clock of ours, its restarts with real programs."""

import os
import signal
import sys
import textwrap
from contextlib import contextmanager

import pytest

from benchmarks.engine.supervisor import ABORT_S, Unit, Watchdog

DEADLINE_S = 20


@pytest.mark.parametrize("limit_s", [None, 10.0])
def test_watchdog_leaves_a_program_alone_that_never_was_ready(limit_s):
    watchdog = Watchdog(limit_s)

    assert watchdog.signal_due(now=1000.0) is None


def test_watchdog_that_is_fed_in_time_does_nothing():
    watchdog = Watchdog(10.0)

    due = []
    for now in (0.0, 9.9, 19.8, 29.7):
        due.append(watchdog.signal_due(now))
        watchdog.fed(now)

    assert due == [None] * 4


def test_watchdog_aborts_once_at_its_limit_and_kills_a_second_later():
    watchdog = Watchdog(10.0)
    watchdog.fed(0.0)

    due = [watchdog.signal_due(now) for now in (9.9, 10.0, 10.1, 10.0 + ABORT_S)]

    assert due == [None, signal.SIGABRT, None, signal.SIGKILL]


def test_watchdog_tells_how_long_nothing_can_be_due():
    watchdog = Watchdog(10.0)
    watchdog.fed(0.0)

    waits = [watchdog.wait_s(now) for now in (9.75, 11.0)]

    assert waits == [0.25, 0.0]


READY = "notify('READY=1')"


@contextmanager
def unit(folder, program, watchdog_s=None):
    """A program of a line or two that may call `notify` and `sleep`."""
    script = folder / "program.py"
    script.write_text(
        textwrap.dedent("""\
            import os, socket
            from time import sleep
            def notify(text):
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                    sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
            """)
        + program
    )
    supervised = Unit("unit", [sys.executable, str(script)], folder, {}, os.sched_getaffinity(0), watchdog_s)
    supervised.start()
    try:
        yield supervised
    finally:
        supervised.stop()


def test_killed_program_is_started_again_and_its_death_is_told(tmp_path):
    with unit(tmp_path, f"{READY}; sleep(60)") as supervised:
        supervised.wait_until_ready(DEADLINE_S)
        killed = supervised.signal(signal.SIGKILL)
        supervised.wait_until_ready(DEADLINE_S, lives=2)

    first, second = supervised.lives
    assert first.status == -signal.SIGKILL
    assert killed <= first.died <= second.started <= second.ready


def test_program_that_stands_still_is_noticed_by_the_watchdog_and_started_again(tmp_path):
    with unit(tmp_path, f"{READY}; sleep(60)", watchdog_s=0.5) as supervised:
        supervised.wait_until_ready(DEADLINE_S)
        stopped = supervised.signal(signal.SIGSTOP)
        supervised.wait_until_ready(DEADLINE_S, lives=2)

    first = supervised.lives[0]
    assert first.status == -signal.SIGABRT
    assert stopped < first.watchdog_at < first.died


def test_program_is_left_alone_while_it_says_that_it_lives(tmp_path):
    ten_times = f"{READY}\nfor _ in range(10): notify('WATCHDOG=1'); sleep(0.1)\nsleep(60)"

    with unit(tmp_path, ten_times, watchdog_s=0.8) as supervised:
        supervised.wait_until_ready(DEADLINE_S)
        supervised.wait_until_ready(DEADLINE_S, lives=2)

    first = supervised.lives[0]
    assert first.watchdog_at - first.ready > 1.5


def test_nothing_runs_after_a_stop_even_of_a_program_that_stands_still(tmp_path):
    with unit(tmp_path, f"{READY}; sleep(60)") as supervised:
        supervised.wait_until_ready(DEADLINE_S)
        pid = supervised.pid
        supervised.signal(signal.SIGSTOP)

    assert supervised.pid is None
    assert supervised.lives[0].status == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_import_of_torch_is_told(tmp_path):
    with unit(tmp_path, f"notify('X_TORCH_IMPORT_S=1.25'); {READY}; sleep(60)") as supervised:
        supervised.wait_until_ready(DEADLINE_S)

    assert supervised.lives[0].torch_import_s == 1.25
