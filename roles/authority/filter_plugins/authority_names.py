"""What the balancers' certificates are for."""

from __future__ import annotations


def authority_names(balancers, hostvars, manual, more=()):
    """Names and addresses that the authority may sign for, each once.

    Args:
        hostvars: what the inventory sets for each host; `manual`: the defaults of the role nginx for the rest.
        more: what else the operator named.
    """
    names = []
    for host in balancers:
        its = hostvars[host]
        names.append(its.get("nginx_server_name", manual["nginx_server_name"]))
        names.append(its["nginx_public_address"] if "nginx_public_address" in its else its["private_address"])
    return list(dict.fromkeys([*names, *more]))


class FilterModule:
    def filters(self):
        return {"authority_names": authority_names}
