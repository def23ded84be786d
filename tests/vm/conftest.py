"""One host that is everything, as a virtual machine; `make test-vm` makes it. What only a kernel of its own can answer.

Emulation is slow, and how slow depends on what else the machine does. Times are told and, but for one, not judged.
"""

import subprocess
import time
from pathlib import Path

import pytest

from tools.deployment import ROOT, Deployment
from tools.heldout import PREDICT, read_cases

HOST = "host1"
CASE = read_cases()[0]


@pytest.fixture(scope="session")
def fleet():
    return Deployment("vm", HOST, HOST, ROOT / ".bedplate/vm/one-host", patience_s=30)


@pytest.fixture(scope="session")
def host(fleet):
    """host(command, stdin="") → what it prints; run as root."""
    return lambda command, stdin="": fleet.ssh(HOST, command, stdin)


@pytest.fixture(scope="session")
def predict(fleet):
    """predict() → 200 for a right answer of the model, else the status; None without any."""

    def predict():
        connection = fleet.connect()
        try:
            answer = fleet.ask(connection, "POST", PREDICT, CASE.file.read_bytes(), Content_Type="image/png")
        except OSError:
            return None
        finally:
            connection.close()
        assert answer.status != 200 or answer.json["predictions"][0]["label"] == CASE.offline
        return answer.status

    return predict


@pytest.fixture(scope="session")
def wait_until():
    """wait_until(condition, timeout_s) → seconds that it took."""

    def wait_until(condition, timeout_s=1800):
        started = time.monotonic()
        while not condition():
            assert time.monotonic() < started + timeout_s, f"not so after {timeout_s} s"
            time.sleep(0.2)
        return time.monotonic() - started

    return wait_until


@pytest.fixture(autouse=True)
def whole(host, predict, wait_until):
    """Each test begins with a host where every unit runs and predictions are right."""
    wait_until(lambda: host("systemctl is-system-running --wait || true").strip() == "running")
    wait_until(lambda: predict() == 200)


@pytest.fixture(scope="session")
def run_in_unit(host):
    """run_in_unit(unit, program, *arguments) → its output and its exit status as a shell has it.

    The program is part of the unit for the kernel, which counts and filters by control group, and of nothing else of
    its sandbox: what stops it is the limit in question.
    """

    def run_in_unit(unit, program, *arguments):
        enter = f'echo 0 > "/sys/fs/cgroup$(systemctl show --property=ControlGroup --value {unit})/cgroup.procs"'
        python = " ".join(["exec /usr/bin/python3 -", *arguments])
        output = host(f"({enter} && {python}); echo $?", Path(__file__).with_name(program).read_text())
        *lines, status = output.splitlines()
        return "\n".join(lines), int(status)

    return run_in_unit


@pytest.fixture(scope="session")
def hang_up(fleet):
    """hang_up() forgets the connection to a host that goes down."""
    return lambda: fleet.hang_up(HOST)


@pytest.fixture(scope="session")
def testhosts():
    """testhosts("reset") → presses that button of the virtual machine."""

    def testhosts(verb):
        subprocess.run([ROOT / "tools/testhosts", verb, "vm", HOST], check=True, capture_output=True)

    return testhosts
