"""Sets of wheels, one for each kind of host."""

from __future__ import annotations


def wheelhouse_sets(hosts, hostvars):
    """[cp312-cuda, cp311-cpu …]: what these hosts need, for their Python and for engines on GPUs or on processors.

    Args:
        hostvars: facts (python, nvidia) and settings of each host. The role bedplate asks for the same.
    """
    sets = set()
    for host in hosts:
        its = hostvars[host]
        engines, facts = its.get("bedplate_engines", []), its["ansible_facts"]
        on_gpus = any(name.startswith("gpu") for name in engines) if engines else bool(facts["nvidia"]["gpus"])
        sets.add(f"cp3{int(facts['python']['version']['minor'])}-{'cuda' if on_gpus else 'cpu'}")
    return sorted(sets)


class FilterModule:
    def filters(self):
        return {"wheelhouse_sets": wheelhouse_sets}
