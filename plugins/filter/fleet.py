"""Hosts of the fleet by what they are for."""

from __future__ import annotations

CLASSES = ("lb", "inference", "data", "ops")


def fleet_hosts(groups, classes=CLASSES):
    """Each host of these classes once, in their order. An inventory may lack a group that somebody names."""
    return list(dict.fromkeys(host for name in classes for host in groups.get(name, [])))


class FilterModule:
    def filters(self):
        return {"fleet_hosts": fleet_hosts}
