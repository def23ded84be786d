"""A bridge with a private /24 per fleet, and the fleet's way out to the package registries."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from tools.disposable.system import Refused, run, succeeds

FORWARDING = Path("/proc/sys/net/ipv4/conf")
# A reboot forgets what it says, as it forgets what is said of: /run is right for it.
CHANGED = Path("/run/bedplate-hosts/forwarding")
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
CANDIDATES = 10


@dataclass(frozen=True)
class Network:
    bridge: str
    subnet: str
    prefix6: str

    def address(self, number: int) -> str:
        return str(ip_network(self.subnet)[number])

    def address6(self, number: int) -> str:
        return f"{self.prefix6}::{number:x}"


def bridge_name(key: str) -> str:
    """At most 15 characters, the kernel's limit for an interface."""
    fleet = key.rpartition("-")[0]
    return f"bp-{fleet[:7].strip('-')}-{_digest(key)[:4]}"


def choose(key: str, taken: list[IPv4Network]) -> Network:
    digest = _digest(key)
    candidates = list(_candidates(int(digest[:4], 16)))
    for candidate in candidates:
        if not any(ip_network(candidate).overlaps(network) for network in taken):
            return Network(bridge_name(key), candidate, f"fd{digest[:2]}:{digest[2:6]}:{digest[6:10]}:1")
    raise Refused(
        f"none of {', '.join(candidates)} is free: each overlaps a route or address in `ip route` or `ip addr`"
    )


def require_free(network: Network) -> None:
    for other in taken_networks(network.bridge):
        if other.overlaps(ip_network(network.subnet)):
            raise Refused(
                f"{network.subnet}, this fleet's, is now used by {other} too: take the fleet down and up again"
            )


def taken_networks(except_bridge: str) -> list[IPv4Network]:
    routes: list[dict[str, Any]] = json.loads(run("ip", "-4", "-json", "route", "show", "table", "all"))
    links: list[dict[str, Any]] = json.loads(run("ip", "-4", "-json", "addr", "show"))
    taken = [route["dst"] for route in routes if route.get("dev") != except_bridge]
    taken += [
        f"{address['local']}/{address['prefixlen']}"
        for link in links
        if link["ifname"] != except_bridge
        for address in link["addr_info"]
    ]
    taken += [server for server in nameservers() if ":" not in server]
    networks = [IPv4Network(text, strict=False) for text in taken if text != "default"]
    # Anything wider is a way out under another name, as VPNs split the default route in two.
    return [network for network in networks if network.prefixlen >= 8]


def _candidates(start: int) -> Iterator[str]:
    """Spread over the three private ranges, since a VPN often claims one of them whole."""
    for i in range(CANDIDATES):
        number = start + i * 7
        prefix = (f"10.{192 + number % 64}", f"172.{20 + number % 12}", "192.168")[i % 3]
        yield f"{prefix}.{number // 64 % 256}.0/24"


def nameservers(paths: tuple[Path, ...] = RESOLVERS) -> list[str]:
    """The machine's own resolvers, as a host can reach them: a stub on loopback answers this machine alone."""
    for path in paths:
        lines = path.read_text().splitlines() if path.exists() else []
        servers = [line.split()[1] for line in lines if line.startswith("nameserver ")]
        reachable = [server for server in servers if not ip_address(server.partition("%")[0]).is_loopback]
        if reachable:
            return reachable
    raise Refused(
        "no resolver but loopback in /etc/resolv.conf: test hosts cannot ask it; name one they can reach there"
    )


def raise_network(network: Network) -> None:
    require_free(network)
    bridge = network.bridge
    if not succeeds("ip", "link", "show", bridge):
        # An address of its own: else the bridge takes that of whichever host came last, and hosts lose it.
        mac = "02:" + ":".join(_digest(bridge)[i : i + 2] for i in range(0, 10, 2))
        run("ip", "link", "add", "name", bridge, "address", mac, "type", "bridge")
    run("ip", "addr", "replace", f"{network.address(1)}/24", "dev", bridge)
    if has_ipv6():
        run("ip", "-6", "addr", "replace", f"{network.address6(1)}/64", "dev", bridge, "nodad")
    run("ip", "link", "set", bridge, "up")
    out = uplinks()
    # Where this machine forwarded nothing before, what came in by the uplink for others stays shut out.
    alone = [] if forwards("all") else out
    # The rules first.
    run("nft", "-f", "-", stdin=_nft_rules(network, out, alone))
    start_forwarding([bridge, *out])
    if shutil.which("iptables") and "-P FORWARD DROP" in run("iptables", "-S", "FORWARD"):
        for rule in _iptables_rules(bridge):
            if not succeeds("iptables", "-C", "FORWARD", *rule):
                run("iptables", "-I", "FORWARD", *rule)


def remove_network(bridge: str) -> None:
    if succeeds("nft", "list", "table", "inet", bridge):
        run("nft", "delete", "table", "inet", bridge)
    if shutil.which("iptables"):
        for rule in _iptables_rules(bridge):
            while succeeds("iptables", "-D", "FORWARD", *rule):
                pass
    (CHANGED / bridge).unlink(missing_ok=True)
    if succeeds("ip", "link", "show", bridge):
        run("ip", "link", "delete", bridge)


def uplinks() -> list[str]:
    """The interfaces by which this machine reaches the rest of the world, and its resolvers."""
    routes: list[dict[str, Any]] = json.loads(run("ip", "-4", "-json", "route", "show"))
    # A VPN splits the default route in two.
    out = [route["dev"] for route in routes if route["dst"] in ("default", "0.0.0.0/1", "128.0.0.0/1")]
    for server in nameservers():
        if ":" not in server and succeeds("ip", "-4", "route", "get", server):
            out += [route["dev"] for route in json.loads(run("ip", "-4", "-json", "route", "get", server))]
    return sorted(set(out))


def forwards(interface: str) -> bool:
    return (FORWARDING / interface / "forwarding").read_text().strip() == "1"


def start_forwarding(interfaces: list[str]) -> None:
    """Of these interfaces alone: the machine becomes no router between others. What was off is remembered."""
    for interface in interfaces:
        if not forwards(interface):
            CHANGED.mkdir(parents=True, exist_ok=True)
            (CHANGED / interface).touch()
            (FORWARDING / interface / "forwarding").write_text("1\n")


def restore_forwarding() -> None:
    """After the last fleet. Who turned all of it on meanwhile, as Docker does, needs it."""
    for changed in sorted(CHANGED.glob("*")) if CHANGED.exists() else []:
        switch = FORWARDING / changed.name / "forwarding"
        if switch.exists() and not forwards("all"):
            switch.write_text("0\n")
        changed.unlink()


def _nft_rules(network: Network, out: list[str], alone: list[str]) -> str:
    bridge = network.bridge
    ways = ", ".join(f'"{interface}"' for interface in [bridge, *out])
    # Docker's published ports are new connections too, by its own rules of translation.
    shut = [f'iifname "{each}" oifname != "bp-*" ct state new ct status & dnat == 0 drop' for each in alone]
    return f"""
        add table inet {bridge}
        delete table inet {bridge}
        table inet {bridge} {{
            chain postrouting {{
                type nat hook postrouting priority 100;
                ip saddr {network.subnet} ip daddr != {network.subnet} masquerade
            }}
            chain forward {{
                type filter hook forward priority 0;
                # The way out may carry smaller packets than the bridge.
                iifname "{bridge}" tcp flags syn tcp option maxseg size set rt mtu
                oifname "{bridge}" tcp flags syn tcp option maxseg size set rt mtu
                iifname "{bridge}" oifname != {{ {ways} }} drop
                iifname "{bridge}" accept
                # Hosts answer; nobody beyond this machine, and no other fleet, may call them.
                oifname "{bridge}" ct state established,related accept
                oifname "{bridge}" drop
                {"; ".join(shut)}
            }}
        }}
    """


def _iptables_rules(bridge: str) -> list[list[str]]:
    """For machines whose FORWARD policy is DROP, as Docker makes it: an accept in nft does not overrule it."""
    return [
        ["-i", bridge, "-j", "ACCEPT"],
        ["-o", bridge, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT"],
    ]


def has_ipv6() -> bool:
    disabled = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    return disabled.exists() and disabled.read_text().strip() == "0"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
