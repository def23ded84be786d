"""Settings that contradict each other, the host, or the other hosts."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.preflight.hosts import CONTROL, Finding, Host, manual

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}  # systemd's
MB = 1_000_000
# nginx takes these from the first inference host, for all.
SHARED = ("bedplate_request_timeout_s", "bedplate_max_body_bytes")


@dataclass(frozen=True)
class Derived:
    """A name that a host gets elsewhere, made from its name in the inventory."""

    what: str
    make: Callable[[str], str]
    most: int  # characters
    groups: tuple[str, ...] = ("lb", "inference", "data", "ops")  # whose hosts have one
    taken: tuple[str, ...] = ()  # by something else


DERIVED = (
    # As roles/backup makes it; systemd-sysusers refuses 32 characters.
    Derived("its user and folder at the backup store", lambda name: "store-" + re.sub("[^a-z0-9_-]", "-", name), 31),
    # Some file systems of control machines do not tell A from a. What is the authority's own lies beside it.
    Derived(
        "its certificate in the folder authority of the inventory",
        lambda name: f"{name.lower()}.crt",
        255,
        ("lb",),
        ("ca.crt",),
    ),
)


def judge(hosts: list[Host]) -> Iterator[Finding]:
    for host in hosts:
        if host.size not in host.sizes:
            found, wanted = f"preflight_size '{host.size}'", f"one of {', '.join(host.sizes)}"
            yield _contradiction(host, found, wanted, "Name one, or add it to preflight_sizes.", "preflight_size")
        yield from _address(host, hosts)
        yield from _ports(host)
        if "inference" in host.groups:
            yield from _inference(host, hosts)
        if "lb" in host.groups:
            yield from _balancer(host)
        if "data" in host.groups:
            yield from _cache(host)
        yield from _backups(host)
    yield from _derived(hosts)
    yield from _agreement(hosts)


def _address(host: Host, hosts: list[Host]) -> Iterator[Finding]:
    has = host.settings.get("private_address")
    same = [each.name for each in hosts if each != host and each.address and each.address == host.address]
    if has is None:
        yield _contradiction(host, "no private_address", "an address", "Give the host its own.", "private_address")
    elif same:
        found = f"private_address {has}, as {', '.join(same)}"
        yield _contradiction(host, found, "an address of its own", "Give each host its own.", "private_address")
    elif host.address and host.address.is_loopback and len(hosts) > 1:
        wanted = "an address that the other hosts reach"
        yield _contradiction(host, f"private_address {has}", wanted, "Give it one.", "private_address")


def _ports(host: Host) -> Iterator[Finding]:
    owners: dict[int, list[str]] = defaultdict(list)
    for name in manual("fleet"):
        service = host.setting(name)
        if set(service["hosts"]) & set(host.groups):
            for port in range(service["port"], service["port"] + service.get("count", 1)):
                owners[port].append(name)
    for port, names in owners.items():
        if len(names) > 1:
            found = f"{' and '.join(names)} have port {port}"
            yield _contradiction(host, found, "a port for each", "Move one of them.", names[-1])


def _inference(host: Host, hosts: list[Host]) -> Iterator[Finding]:
    engines, threads = host.setting("bedplate_engines"), host.setting("bedplate_engine_threads")
    # Empty is every GPU that is there, or cpu0.
    engines = engines or [f"gpu{number}" for number in range(len(host.seen.get("gpus", [])))] or ["cpu0"]
    wrong = [name for name in engines if not re.fullmatch(r"(cpu|gpu)(0|[1-9]\d*)", name)]
    if wrong or len(set(engines)) < len(engines):
        step = "Name each device once: cpu0, cpu1 … or gpu0, gpu1 …"
        yield _contradiction(host, f"bedplate_engines: {engines}", "devices", step, "bedplate_engines")
    on_cores = len([name for name in engines if name.startswith("cpu")]) * threads
    cores = host.seen.get("cores", on_cores)
    if host.setting("bedplate_engine_pin") and on_cores > cores:
        found = f"{on_cores} threads of engines, each on a core of its own, and {cores} cores"
        step = "Declare fewer engines (bedplate_engines) or threads."
        yield _contradiction(host, found, f"at most {cores} threads", step, "bedplate_engine_threads")
    yield from _front_ends(host, hosts)
    weights_mb, most = host.setting("bedplate_models_memory_mb"), host.setting("bedplate_engine_memory_max")
    if weights_mb * MB >= (_bytes(most) or weights_mb * MB + 1):
        found = f"bedplate_models_memory_mb {weights_mb}, and the kernel ends an engine at {most}"
        step = "Raise bedplate_engine_memory_max, or lower the models' share."
        yield _contradiction(host, found, "less than the whole engine", step, "bedplate_models_memory_mb")
    if host.seen and (host.seen["machine"] != "x86_64" or _version(host.seen["python"]) < (3, 11)):
        found = f"Python {host.seen['python']} on {host.seen['machine']}"
        step = "Install Ubuntu 24.04 or later or Debian 12 or later, or take the host out of 'inference' in hosts.yml."
        yield Finding(host.name, "wheelhouse", found, "3.11 or later on x86_64, which wheels exist for", step)


def _front_ends(host: Host, hosts: list[Host]) -> Iterator[Finding]:
    count, ports = host.setting("bedplate_web_instances"), host.setting("fleet_web")
    if count > ports["count"] or ports["port"] % 10 != 1:
        found = f"bedplate_web_instances {count}, fleet_web {ports}"
        step = "Lower the instances, or raise `count`."
        wanted = "at most `count` instances, and a first port that ends in 1"
        yield _contradiction(host, found, wanted, step, "bedplate_web_instances")
    listens = str(host.settings.get("bedplate_web_address", ""))
    balancers = [each.name for each in hosts if "lb" in each.groups and each.name != host.name]
    if listens.startswith("127.") and balancers:
        found = f"bedplate_web_address {listens}, and balancers elsewhere: {', '.join(balancers)}"
        yield _contradiction(host, found, "an address they reach", "Take the line out.", "bedplate_web_address")


def _balancer(host: Host) -> Iterator[Finding]:
    certificate, key = host.setting("nginx_certificate_file"), host.setting("nginx_certificate_key_file")
    if bool(certificate) != bool(key):
        found = f"nginx_certificate_file '{certificate}', nginx_certificate_key_file '{key}'"
        setting = "nginx_certificate_key_file" if certificate else "nginx_certificate_file"
        yield _contradiction(host, found, "both or neither", "Set both, or neither.", setting)
    days, rest = host.setting("nginx_certificate_days"), host.setting("nginx_certificate_renew_days")
    if rest >= days:
        found = f"certificates of {days} days, renewed {rest} days before their end"
        yield _contradiction(host, found, "a rest shorter than the whole", "Lower it.", "nginx_certificate_renew_days")
    if not certificate and host.settings.get("nginx_hsts_s"):
        found = f"nginx_hsts_s {host.settings['nginx_hsts_s']} with the private authority"
        step = "Take the line out, or name a certificate of your own."
        yield _contradiction(host, found, "0: browsers could not be talked past a warning", step, "nginx_hsts_s")


def _cache(host: Host) -> Iterator[Finding]:
    most_mb = host.setting("redis_cache_max_memory_mb") * 1.5 + 64
    memory_mb = host.seen.get("memory_gb", most_mb) * 1000
    if most_mb > memory_mb:
        found = f"a cache that may come to {most_mb:.0f} MB, and {memory_mb:.0f} MB of memory"
        yield _contradiction(host, found, "room for it", "Lower it.", "redis_cache_max_memory_mb")


def _backups(host: Host) -> Iterator[Finding]:
    if host.setting("backup_target") == "directory":
        found = f"backups lie on the host itself, in {host.setting('backup_directory')}"
        step = (
            "They help against a mistake, not when the machine is lost, unless another machine's disk is mounted there."
        )
        yield Finding(host.name, "backup", found, "another machine", step, "backup_target", is_fatal=False)


def _derived(hosts: list[Host]) -> Iterator[Finding]:
    for kind in DERIVED:
        names = {host.name: kind.make(host.name) for host in hosts if set(kind.groups) & set(host.groups)}
        for host in hosts:
            name = names.get(host.name, "")
            others = [other for other, its in names.items() if its == name and other != host.name]
            others += ["the authority"] if name in kind.taken else []
            if name and (others or len(name) > kind.most):
                found = f"{kind.what} would be {name}" + (f", as for {', '.join(others)}" if others else "")
                wanted = f"one of its own, of at most {kind.most} characters; this has {len(name)}"
                yield _contradiction(host, found, wanted, "Give the host another name.", host.name)


def _agreement(hosts: list[Host]) -> Iterator[Finding]:
    inference = [host for host in hosts if "inference" in host.groups]
    for name in SHARED:
        values = sorted({str(host.setting(name)) for host in inference})
        if len(values) > 1:
            step = "Write it once for all of them, into group_vars/inference.yml; nginx has one limit."
            yield Finding(CONTROL, "settings", f"{name} is {' and '.join(values)}", "one for all hosts", step, name)
    for name in manual("fleet"):
        ports = {json.dumps(host.setting(name), sort_keys=True): host.name for host in hosts}
        if len(ports) > 1:
            found = " and ".join(f"{text} on {host}" for text, host in sorted(ports.items()))
            step = "Write it once for all of them, into group_vars/all.yml: each host goes to the others' ports by it."
            yield Finding(CONTROL, "settings", f"{name} is {found}", "one for all hosts", step, name)
    pairs = [(host.setting("nginx_certificate_file"), host.setting("nginx_certificate_key_file")) for host in hosts]
    own = any("lb" in host.groups and all(pair) for host, pair in zip(hosts, pairs, strict=True))
    if own and any("ops" in host.groups and host.setting("prometheus_probe_authority") is None for host in hosts):
        found = "a certificate of your own, and probes that trust the private authority"
        step = "Set it to '' for a public authority's certificate, or to the file of the authority."
        yield Finding(CONTROL, "settings", found, "probes that trust it", step, "prometheus_probe_authority")


def _contradiction(host: Host, found: str, wanted: str, step: str, setting: str) -> Finding:
    return Finding(host.name, "settings", found, wanted, step, setting)


def _bytes(size: str) -> int | None:
    """Of a size in systemd's words; None where that is a share or no bound."""
    found = re.fullmatch(r"(\d+)([KMGT]?)", str(size))
    return int(found[1]) * UNITS.get(found[2], 1) if found else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
