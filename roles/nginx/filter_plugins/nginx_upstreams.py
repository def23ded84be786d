"""Whom a balancer gives requests to, and whom it leaves out."""

from __future__ import annotations

import os


def webs(hosts, hostvars, manual, port):
    """Web instances of each inference host as nginx reaches them: {host: [ADDRESS:PORT]}.

    Args:
        hostvars: what the inventory sets for each host; `manual`: the defaults of the role bedplate for the rest.
        port: of the first instance of a host; the others follow it.
    """
    found = {}
    for host in hosts:
        its = hostvars[host]
        address = its["bedplate_web_address"] if "bedplate_web_address" in its else its["private_address"]
        count = int(its.get("bedplate_web_instances", manual["bedplate_web_instances"]))
        found[host] = [f"{address}:{number}" for number in range(port, port + count)]
    return found


def tries(webs):
    """Instances that a request is given to at most: all of the host that has the most, and one of another host."""
    return max(map(len, webs.values())) + 1


def drained(flags, by_rollout=False):
    """Hosts that have a flag, of [{path, size}]: a file with the host's name.

    One with something in it was set by a rollout, which takes it away again once the host answers rightly.
    """
    return [os.path.basename(flag["path"]) for flag in flags if flag["size"] > 0 or not by_rollout]


class FilterModule:
    def filters(self):
        return {"nginx_drained": drained, "nginx_tries": tries, "nginx_webs": webs}
