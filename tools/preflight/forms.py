"""The form of each setting, in one table: what it may look like, and what to write where it looks otherwise.

A number or a switch has its form from what its role declares. Whether settings fit each other is asked in settings.py.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tools.deployment import ROOT
from tools.preflight.hosts import Finding, Host

HIGHEST_PORT = 65535
LONGEST_NAME = 253
# In these a template would end early, or a shell, systemd or nginx would read something else.
SPECIAL = re.compile(r"[\s\"'`\\$%;{}#]")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
OF_TWO_SPELLINGS = re.compile("[ßςẞ\u200c\u200d]")  # other names to newer rules of IDNA than to Python's


@dataclass(frozen=True)
class Form:
    wanted: str
    step: Callable[[Any], str | None]  # what to do about a value that is otherwise, None about one that is right


def judge(hosts: list[Host]) -> Iterator[Finding]:
    for host in hosts:
        if step := _inventory_name(host.name):
            wanted = "1 to 63 letters, digits, dots, - and _"
            yield Finding(host.name, "settings", f"a host named {host.name!r}", wanted, step, "ansible_host")
        for name, value in host.settings.items():
            form = form_of(name)
            if form and (step := form.step(value)):
                yield Finding(host.name, "settings", f"{name}: {value!r}", form.wanted, step, name)


def form_of(setting: str) -> Form | None:
    """That of the table, or that of a number or a switch, as the role declares it."""
    if setting in FORMS:
        return FORMS[setting]
    if setting.startswith("fleet_"):
        return SERVICE
    return KINDS.get(_kind(setting))


@cache
def _kind(setting: str) -> str:
    """The type that its role declares: int, bool …"""
    path = ROOT / "roles" / setting.split("_", 1)[0] / "meta/argument_specs.yml"
    if not path.exists():
        return ""
    options = yaml.safe_load(path.read_text())["argument_specs"]["main"].get("options", {})
    return str(options.get(setting, {}).get("type", ""))


def _inventory_name(name: str) -> str | None:
    return None if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name) else "Rename it in hosts.yml."


def _switch(value: Any) -> str | None:
    right = isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no")
    return None if right else "Write true or false, without more."


def _whole(value: Any) -> str | None:
    right = not isinstance(value, bool) and re.fullmatch(r"\d{1,15}", str(value), re.ASCII)
    return None if right else "Write digits alone; the unit stands beside the setting in its role's defaults/main.yml."


def _number(value: Any) -> str | None:
    right = not isinstance(value, bool) and re.fullmatch(r"\d{1,15}(\.\d+)?", str(value), re.ASCII)
    return None if right else "Write digits, and a point where it has a fraction."


def _address(value: Any) -> str | None:
    """Under which hosts reach each other: by IPv4 alone."""
    text = str(value)
    if re.fullmatch(r"[\d.]+/\d+", text):
        return f"Leave the length of the prefix out: {text.split('/', maxsplit=1)[0]}"
    if re.fullmatch(r"\d+(\.\d+){3}", text) and re.search(r"(^|\.)0\d", text):
        return "Leave the zeros in front out: some programs read them as octal."
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "Give the host its own: four numbers from 0 to 255, with points between them."
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        way = f"Write {mapped}" if mapped else "Give each host an IPv4 address of a private network"
        return f"{way}; the services of the fleet reach each other by IPv4 alone. Clients may come by IPv6."
    if address.is_link_local or address.is_multicast or address.is_unspecified or address == BROADCAST:
        return "Write the address under which the other hosts reach this one, not a link's, a group's, or that of all."
    return None


BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def _listens(value: Any) -> str | None:
    return None if str(value) == "0.0.0.0" else _address(value)


def _public_address(value: Any) -> str | None:
    try:
        address = ipaddress.ip_address(str(value))
    except ValueError:
        return "Write the address alone, without brackets, prefix length, port or zeros in front."
    useless = address.is_multicast or address.is_unspecified or address.is_link_local
    return "Write the one that clients go to." if useless else None


def _server_name(value: Any) -> str | None:  # noqa: PLR0911 - one for each kind of name
    name = str(value)
    if not name.isascii():
        return f"Write its IDNA form{_idna(name)}: certificates and DNS have no other."
    if name.startswith("*."):
        return "Write one name; the certificate may be one for *."
    if name.endswith("."):
        return f"Leave the point at the end out: {name.rstrip('.')}"
    if name != name.lower():
        return f"Write it in lower case: {name.lower()}"
    labels = name.split(".")
    if len(name) > 253 or not all(LABEL.fullmatch(label) for label in labels):
        return (
            "Write a host name: labels of a-z, 0-9 and - (not at their ends, no _), 1 to 63 long, with points between."
        )
    if labels[-1].isdigit():
        return "Write a name; an address goes into nginx_public_address."
    return None


def _idna(name: str) -> str:
    try:
        return "" if OF_TWO_SPELLINGS.search(name) else f", {name.lower().encode('idna').decode()}"
    except UnicodeError:
        return ""


def _port(value: Any) -> str | None:
    right = _whole(value) is None and 1 <= int(value) <= HIGHEST_PORT
    return None if right else f"Write a number from 1 to {HIGHEST_PORT}."


def _service(value: Any) -> str | None:
    if not isinstance(value, dict) or not {"port", "hosts", "from"} <= value.keys():
        return "Write it as roles/fleet/defaults/main.yml does: {port: 9090, hosts: [ops], from: []}"
    count = value.get("count", 1)
    if _port(value["port"]) or _whole(count) or not 1 <= int(count) <= HIGHEST_PORT + 1 - int(value["port"]):
        return f"Give it a port from 1 to {HIGHEST_PORT}, and a `count` of ports that does not go past that."
    if not all(isinstance(value[key], list) for key in ("hosts", "from")):
        return "Write `hosts` and `from` as lists: [ops]"
    return None


def _memory(value: Any) -> str | None:
    right = re.fullmatch(r"[1-9]\d*[KMGT]?|infinity|([1-9]\d?|100)%", str(value), re.ASCII)
    return None if right else "Write it as systemd has it: 512M, 4G, 50% or infinity."


def _retention_size(value: Any) -> str | None:
    right = re.fullmatch(r"\d+(B|KB|MB|GB|TB|PB|EB)", str(value), re.ASCII)
    return None if right else "Write it as Prometheus has it: 512MB, 8GB."


def _retention_time(value: Any) -> str | None:
    right = re.fullmatch(r"(\d+(y|w|d|h|m|s|ms))+", str(value), re.ASCII)
    return None if right else "Write it as Prometheus has it: 15d, 12h."


def _host_folder(value: Any) -> str | None:
    """One that units and scripts of a host name."""
    path = str(value)
    if not path.startswith("/") or SPECIAL.search(path):
        return "Write the whole path from / on, without spaces, quotes, $ and %: units name it."
    wrong = re.search(r"//|/\.\.?(/|$)", path) or len(path.strip("/")) == 0
    return "Write it without //, /./ and /../; / itself is no folder for that." if wrong else None


def _control_path(value: Any) -> str | None:
    """A file of the control machine; empty is none."""
    right = isinstance(value, str) and not re.search(r"[\n\0]", value) and (not value or value.startswith(("/", "~/")))
    return None if right else 'Write the whole path; "{{ inventory_dir }}/…" is one beside hosts.yml.'


def _bundles(value: Any) -> str | None:
    right = isinstance(value, list) and all(
        re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?", str(each)) for each in value
    )
    return None if right else "Write a list, such as [digits, tones/2]."


def _connection_host(value: Any) -> str | None:
    right = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:.]+(%[\w.-]+)?", str(value), re.ASCII)
    return None if right else "Write a name or an address alone; the port is ansible_port, the user ansible_user."


def _user(value: Any) -> str | None:
    right = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.@-]*", str(value), re.ASCII)
    return None if right else "Write the name of a user of the host."


SWITCH = Form("true or false", _switch)
WHOLE = Form("a whole number, 0 or more", _whole)
NUMBER = Form("a number, 0 or more", _number)
KINDS = {"bool": SWITCH, "int": WHOLE, "float": NUMBER}
SERVICE = Form("port, hosts and from of a service", _service)
FORMS = {
    "ansible_host": Form("a name or an address", _connection_host),
    "ansible_port": Form(f"a port from 1 to {HIGHEST_PORT}", _port),
    "ansible_user": Form("a user", _user),
    "backup_directory": Form("a folder of the host", _host_folder),
    "bedplate_bundles": Form("NAME or NAME/VERSION of bundles", _bundles),
    "bedplate_bundles_dir": Form("a folder of the control machine", _control_path),
    "bedplate_engine_memory_max": Form("a size as systemd has it", _memory),
    "bedplate_web_address": Form("an IPv4 address", _listens),
    "bedplate_web_memory_max": Form("a size as systemd has it", _memory),
    "nginx_certificate_file": Form("a file of the control machine", _control_path),
    "nginx_certificate_key_file": Form("a file of the control machine", _control_path),
    "nginx_public_address": Form("an address that clients reach", _public_address),
    "nginx_server_name": Form("a host name in ASCII and lower case", _server_name),
    "private_address": Form("an IPv4 address that the other hosts reach", _address),
    "prometheus_probe_authority": Form("a file of the control machine, or ''", _control_path),
    "prometheus_retention_size": Form("a size as Prometheus has it", _retention_size),
    "prometheus_retention_time": Form("a time as Prometheus has it", _retention_time),
}
