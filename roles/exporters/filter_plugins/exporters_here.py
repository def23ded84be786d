"""Exporters of one host."""

from __future__ import annotations


def exporters_here(exporters, group_names):
    """Those of [{service: {hosts: [group]}, …}] that the fleet declares for a group of this host."""
    return [exporter for exporter in exporters if set(exporter["service"]["hosts"]) & set(group_names)]


class FilterModule:
    def filters(self):
        return {"exporters_here": exporters_here}
