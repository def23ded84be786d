"""Rules of one host's firewall, as they follow from the fleet's declarations and the inventory."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import combinations

from ansible.errors import AnsibleFilterError

ANYONE = {4: "0.0.0.0/0", 6: "::/0"}
PORTS = range(1, 65536)


def ufw_rules(services, host, groups, addresses, extra=(), unlimited=()):
    """What may come in, in the order in which the kernel asks.

    Args:
        services: {name: {port, hosts, from, count?, limit?}}, see the role fleet.
        groups: {group: [host]}; `addresses`: {host: IPv4 address, or nothing}.
        extra: [{port, protocol?, from, comment}], for this host only.
        unlimited: addresses and networks to which no limit applies.

    Returns:
        [{version, action, protocol, ports, source, comment}]: version 4 or 6, ports as `FIRST:LAST` or one number.

    Raises:
        AnsibleFilterError: with what was found, what is wanted and where to change it.
    """
    own = {name: service for name, service in services.items() if _runs(name, service, host, groups)}
    _refuse_shared_ports(own, host)
    wanted = [{"comment": name.replace("_", " "), **service} for name, service in own.items()]
    rules = []
    for service in [*wanted, *extra]:
        rule = {"protocol": service.get("protocol", "tcp"), "ports": _ports(service), "comment": service["comment"]}
        sources = _sources(service, host, groups, addresses)
        if service.get("limit"):
            exempt = [_network(source, "ufw_ssh_unlimited") for source in unlimited]
            rules += [{"action": "allow", **rule, **_source(network)} for network in exempt]
        action = "limit" if service.get("limit") else "allow"
        rules += [{"action": action, **rule, **_source(network)} for network in sources]
    return rules


def ufw_addresses(hosts, hostvars):
    """{host: private_address, or nothing where the inventory has none}."""
    return {host: hostvars[host].get("private_address", "") for host in hosts}


def ufw_admits(rules, address, port):
    """Whether a TCP connection from the address to the port would be let in."""
    came_from = ip_address(address)
    came_from = getattr(came_from, "ipv4_mapped", None) or came_from
    return any(
        rule["protocol"] == "tcp"
        and int(port) in range(int(rule["ports"].split(":")[0]), int(rule["ports"].split(":")[-1]) + 1)
        and came_from in ip_network(rule["source"])
        for rule in rules
    )


def _runs(name, service, host, groups):
    unknown = [group for group in service["hosts"] if group not in groups]
    if unknown:
        raise AnsibleFilterError(
            f"fleet_{name} runs on {unknown}, but the inventory has no such group. Correct `hosts` in the line, or add "
            "the group to hosts.yml; it may be empty."
        )
    return any(host in groups[group] for group in service["hosts"])


def _range(service):
    first, count = int(service["port"]), int(service.get("count", 1))
    if first not in PORTS or count < 1 or first + count - 1 not in PORTS:
        raise AnsibleFilterError(f"{service}: ports are {PORTS[0]} to {PORTS[-1]}, and a count is at least 1")
    return range(first, first + count)


def _ports(service):
    ports = _range(service)
    return str(ports[0]) if len(ports) == 1 else f"{ports[0]}:{ports[-1]}"


def _refuse_shared_ports(services, host):
    for (one, first), (other, second) in combinations(services.items(), 2):
        shared = set(_range(first)) & set(_range(second))
        if shared:
            raise AnsibleFilterError(
                f"fleet_{one} and fleet_{other} both take port {min(shared)} on {host}. Give one of them another."
            )


def _sources(service, host, groups, addresses):
    """Networks, each once, in the order of the declaration."""
    found = []
    for word in service["from"]:
        if word == "anyone":
            found += [ip_network(everything) for everything in ANYONE.values()]
        elif word in groups:
            found += [_member(member, word, addresses) for member in groups[word] if member != host]
        else:
            found.append(_network(word, f"`from` of {service['comment']}"))
    return list(dict.fromkeys(found))


def _member(host, group, addresses):
    if not addresses.get(host):
        raise AnsibleFilterError(
            f"{host} of the group '{group}' may connect, but has no private_address. Give it one in hosts.yml; where "
            "it follows from facts, run the playbook without --limit."
        )
    return _network(addresses[host], f"private_address of {host}")


def _network(text, where):
    try:
        return ip_network(text)
    except ValueError as error:
        raise AnsibleFilterError(
            f"{where} names {text!r}: {error}. Wanted is `anyone`, a group of the inventory, an address or a network."
        ) from None


def _source(network):
    """As ufw writes it: a single address without its length."""
    single = network.num_addresses == 1
    return {"version": network.version, "source": str(network.network_address if single else network)}


class FilterModule:
    def filters(self):
        return {"ufw_addresses": ufw_addresses, "ufw_rules": ufw_rules, "ufw_admits": ufw_admits}
