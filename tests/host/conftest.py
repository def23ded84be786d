"""Questions to real hosts over SSH: molecule's verify step, or

    pytest tests/host --ssh-config=.bedplate/demo/ssh_config --sudo

A module names its hosts in `testinfra_hosts`; `--hosts` overrides that.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:
        return json.loads(self.body)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--authority", default=REPOSITORY / "inventory/demo/authority/ca.crt", help="whom to trust")


@pytest.fixture(autouse=True)
def far_away(host: Any) -> None:
    """Without hosts testinfra would ask this machine, and some tests stop units."""
    assert host.backend.get_connection_type() == "ssh", "name the module's hosts in testinfra_hosts, or give --hosts"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Iterator[None]:
    report = yield
    if report.failed and "host" in item.funcargs:
        journal = item.funcargs["host"].run("journalctl --no-pager --lines=40 --priority=warning").stdout
        report.sections.append(("journal of the host", journal))
    return report


@pytest.fixture
def ssh(host: Any, request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The ssh client on this machine, towards the host."""

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["ssh", "-F", request.config.getoption("--ssh-config"), *options, host.backend.host.name]
        return subprocess.run(
            command, capture_output=True, check=False, text=True, stdin=subprocess.DEVNULL, timeout=20
        )

    return run


@pytest.fixture
def address(ssh: Callable[..., subprocess.CompletedProcess[str]]) -> str:
    """The host as this machine reaches it."""
    found = re.search(r"^hostname (\S+)$", ssh("-G").stdout, re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture
def curl() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_curl


def run_curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", "20", *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True)


@pytest.fixture
def ask(address: str, request: pytest.FixtureRequest) -> Callable[..., Answer]:
    """Send a request to the host under the name bedplate.test."""

    def send(url: str, *options: str) -> Answer:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}[parts.scheme]
        trusted = ("--cacert", str(request.config.getoption("--authority")))
        result = run_curl("--resolve", f"bedplate.test:{port}:{address}", *trusted, *options, url)
        assert result.returncode == 0, result.stderr
        return _parse(result.stdout)

    return send


def _parse(text: str) -> Answer:
    head, _, body = text.replace("\r\n", "\n").partition("\n\n")
    status_line, *lines = head.split("\n")
    if status_line.split()[1] == "100":
        return _parse(body)
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Answer(int(status_line.split()[1]), headers, body)
