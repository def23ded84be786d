"""What is backed up, and what each host may keep at the store."""

from __future__ import annotations

import re


def user(host):
    """The store's user for a host; names of Unix users are shorter than those of hosts may be."""
    return "store-" + re.sub("[^a-z0-9_-]", "-", host)


def quotas(hosts, hostvars, manual):
    """{user: {name, gib, files}}: of each host, by its user at the store.

    Args:
        hostvars: what the inventory sets for each host; `manual`: the defaults of this role for the rest.
    """
    found = {}
    for host in hosts:
        its = hostvars[host]
        gib, files = (its.get(name, manual[name]) for name in ("backup_quota_gib", "backup_quota_files"))
        found[user(host)] = {"name": host, "gib": float(gib), "files": int(files)}
    return found


def parts(every):
    """{part: [path]} of those that have paths."""
    return {name: paths for name, paths in every.items() if paths}


class FilterModule:
    def filters(self):
        return {"backup_parts": parts, "backup_quotas": quotas, "backup_user": user}
