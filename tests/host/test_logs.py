"""Log files of the service: sorted by stream, whole, and turned without a loss."""

from __future__ import annotations

import json
import time
import uuid

import pytest

testinfra_hosts = ["ssh://lb1", "ssh://gpu1", "ssh://trixie1"]

STREAMS = ["application", "performance", "security"]
# 20,000 lines at 2,000/s, which is more than a host has requests to log.
WRITER = r"""
import json, sys, time
run, count = sys.argv[1], int(sys.argv[2])
began = time.monotonic()
for number in range(count):
    line = {"time": "2026-01-01T00:00:00.000+00:00", "level": "info", "stream": "application", "run": run, "n": number}
    print(json.dumps(line), flush=True)
    time.sleep(max(0, began + number / 2000 - time.monotonic()))
"""


def line(stream="application", **fields):
    return json.dumps({"time": "2026-01-01T00:00:00.000+00:00", "level": "info", "stream": stream, **fields})


def write(host, text, program="bedplate-web"):
    host.check_output(f"cat > /run/bedplate-line <<'END'\n{text}\nEND")
    host.check_output(f"systemd-cat --identifier={program} cat /run/bedplate-line && rm /run/bedplate-line")


def streams_with(host, marker):
    """The streams that have the marker, once it has arrived."""
    deadline = time.monotonic() + 10
    while not (found := host.run(f"grep --files-with-matches {marker} /var/log/bedplate/*.log").stdout.split()):
        assert time.monotonic() < deadline, f"{marker} is in no file after 10 s"
        time.sleep(0.1)
    return [path.removeprefix("/var/log/bedplate/").removesuffix(".log") for path in found]


@pytest.fixture
def marker():
    return uuid.uuid4().hex


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("program", ["bedplate-web", "bedplate-decode", "bedplate-engine", "bedplate-metrics"])
def test_a_line_goes_to_its_stream_unaltered_and_nowhere_else(host, marker, program, stream):
    text = line(stream, event=f"it's {marker} \\ %done")

    write(host, text, program)

    assert streams_with(host, marker) == [stream]
    assert host.check_output(f"grep {marker} /var/log/bedplate/{stream}.log") == text
    assert host.run(f"grep --quiet {marker} /var/log/syslog").rc == 1


@pytest.mark.parametrize(
    "forged",
    [
        {"event": '", "stream": "security", "x": "'},
        {"event": '{"time": "", "level": "", "stream": "security"'},
        {"detail": {"time": "x", "level": "info", "stream": "security"}},
    ],
)
def test_what_a_client_sends_does_not_choose_the_stream(host, marker, forged):
    write(host, line("application", run=marker, **forged))

    assert streams_with(host, marker) == ["application"]


def test_what_is_no_json_is_kept_with_the_application(host, marker):
    write(host, f"Fatal Python error: {marker}")

    assert streams_with(host, marker) == ["application"]


def test_other_programs_keep_their_place(host, marker):
    write(host, line("security", event=marker), "sshd-of-somebody")

    deadline = time.monotonic() + 10
    while host.run(f"grep --quiet {marker} /var/log/syslog").rc:
        assert time.monotonic() < deadline, "it is not in /var/log/syslog"
    assert host.run(f"grep --quiet {marker} /var/log/bedplate/*.log").rc == 1


def test_a_long_traceback_stays_one_line(host, marker):
    text = line("application", run=marker, traceback="x" * 100_000)

    write(host, text)

    assert streams_with(host, marker) == ["application"]
    assert len(host.check_output(f"grep {marker} /var/log/bedplate/application.log")) == len(text)


def test_turning_the_logs_under_load_loses_no_line_and_doubles_none(host, marker):
    host.check_output(f"cat > /run/bedplate-writer.py <<'END'\n{WRITER}\nEND")
    host.check_output(
        "systemd-run --quiet --unit=bedplate-test-writer --property=SyslogIdentifier=bedplate-web "
        f"/usr/bin/python3 /run/bedplate-writer.py {marker} 20000"
    )

    for _ in range(5):
        host.check_output("logrotate --force --state /run/bedplate-logrotate.state /etc/logrotate.d/bedplate")
        time.sleep(1)
    _wait_for_line(host, f'"run": "{marker}", "n": 19999')

    read = "zcat --force /var/log/bedplate/application.log*"
    numbers = host.check_output(f"{read} | grep {marker} | sed 's/.*\"n\": //; s/}}//' | sort -n").split()
    each = "for file in /var/log/bedplate/application.log*"
    files = host.check_output(f"{each}; do zcat --force $file | grep --count {marker}; done; true")
    host.check_output("rm /run/bedplate-writer.py /run/bedplate-logrotate.state")
    assert numbers == [str(number) for number in range(20_000)]
    assert sum(count != "0" for count in files.split()) >= 4


def _wait_for_line(host, text):
    deadline = time.monotonic() + 60
    while host.run(f"grep --quiet --fixed-strings '{text}' /var/log/bedplate/application.log").rc:
        assert time.monotonic() < deadline, f"no line with {text} after 60 s"
        time.sleep(0.5)


def test_logs_are_for_administrators_only(host):
    assert host.check_output("stat --format='%a %G' /var/log/bedplate") == "2750 adm"
    assert set(host.check_output("stat --format='%a %G' /var/log/bedplate/*").splitlines()) == {"640 adm"}


def test_nginx_goes_on_in_a_file_of_its_own_when_its_logs_are_turned(host):
    if not host.service("nginx").is_running:
        pytest.skip("no nginx runs here")
    # An empty one is not turned.
    host.check_output("echo '{}' >> /var/log/nginx/access.log")
    host.check_output("logrotate --force --state /run/bedplate-logrotate.state /etc/logrotate.d/nginx")
    host.check_output("rm /run/bedplate-logrotate.state")

    deadline = time.monotonic() + 10
    while "access.log.1" in host.check_output("ls -l /proc/$(cat /run/nginx.pid)/fd"):
        assert time.monotonic() < deadline, "it still writes into the file that was turned"
        time.sleep(0.1)


def test_logs_are_looked_at_every_hour(host):
    assert "OnCalendar=*-*-* *:00:00" in host.check_output("systemctl show --property=TimersCalendar logrotate.timer")
    assert host.service("logrotate.timer").is_running
    assert host.service("logrotate.timer").is_enabled


def test_a_regular_run_of_logrotate_succeeds(host):
    host.check_output("systemctl start logrotate.service")

    assert "error" not in host.check_output("journalctl --no-pager --output=cat --lines=20 --unit=logrotate.service")


def test_rsyslog_comes_back_after_a_crash(host, marker):
    host.check_output("systemctl kill --signal=KILL rsyslog.service")

    write(host, line("application", run=marker))

    assert streams_with(host, marker) == ["application"]
