"""A service's port stands in its declaration and nowhere else."""

from __future__ import annotations

import re

import pytest
import yaml
from conftest import REPOSITORY

DECLARED = REPOSITORY / "roles/fleet"
PORTS = {
    name: str(service["port"]) for name, service in yaml.safe_load((DECLARED / "defaults/main.yml").read_text()).items()
}
FILES = [
    path
    for folder in ("roles", "templates", "playbooks", "inventory", "library")
    for path in sorted((REPOSITORY / folder).rglob("*"))
    if path.is_file() and DECLARED not in path.parents and path.suffix not in {".pyc", ".crt", ".key"}
    if path.name != "secrets.yml"
]


def says_port(port, line):
    """Numbers of two and three digits mean many things, so they count only where a port would stand."""
    if len(port) > 3:
        return re.search(rf"(?<!\d){port}(?!\d)", line)
    return re.search(rf"(:|\b(listen|ports?|dport)\b\W{{0,3}}){port}(?![\w.%])", line)


@pytest.mark.parametrize(("name", "port"), PORTS.items(), ids=PORTS)
def test_a_port_stands_in_its_declaration_only(name, port):
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if says_port(port, line)
    ]

    assert found == [], f"write {name}.port instead"


@pytest.mark.parametrize(
    ("port", "line", "counts"),
    [
        ("22", "Port 22", False),
        ("80", "listen 80 default_server;", True),
        ("80", "listen [::]:80 default_server;", True),
        ("443", "proxy_pass https://x:443/;", True),
        ("443", "ssl_prefer 443ms", False),
        ("22", "limit: {port: 22}", True),
        ("80", "memory: 80%", False),
        ("22", 'mode: "0022"', False),
        ("9100", "127.0.0.1:9100", True),
        ("9100", "--web.listen-address=:9100", True),
        ("9100", "timeout 91000", False),
    ],
)
def test_the_search_tells_ports_from_other_numbers(port, line, counts):
    assert bool(says_port(port, line)) is counts
