"""Which packages bring the driver of a host, and why a host does not do. The tables are in vars/main.yml."""

from __future__ import annotations

UNKNOWN = "unknown"


def packages(kernel_packages, branch):
    """What Ubuntu calls the open server modules of a branch for these kernels, and what belongs to them.

    Modules come for each flavour of kernel, as linux-image-generic-hwe-24.04, and follow it.
    """
    flavours = [name.removeprefix("linux-image-") for name in kernel_packages]
    modules = [f"linux-modules-nvidia-{branch}-server-open-{flavour}" for flavour in flavours]
    return [
        *modules,
        *(f"{name}-{branch}-server" for name in ("nvidia-compute-utils", "nvidia-utils", "libnvidia-compute")),
    ]


def generations(gpus, known):
    """The generation of each GPU, by the PCI id of its device, in their order; `unknown` for one that is in no range.

    Args:
        known: [{name, first, last}], both ends included.
    """
    return [
        next((one["name"] for one in known if one["first"] <= gpu["device"] <= one["last"]), UNKNOWN) for gpu in gpus
    ]


def refused_gpus(generations, gpus, supported, branch):
    """Sentences of what engines cannot use.

    Args:
        supported: {generation: first branch that does, or why none does}.
        branch: of the driver that would be installed; None where it is not chosen here.
    """
    said = []
    for name, gpu in zip(generations, gpus, strict=True):
        first = supported[name]
        if isinstance(first, str):
            said.append(f"{gpu['address']} is {name}: {first}")
        elif branch is not None and branch < first:
            said.append(f"{gpu['address']} is {name} and needs branch {first}")
    return said


def refused_release(here, release, branch, kernel_packages):
    """A sentence of why the release's own packages bring no such driver, or none.

    Args:
        here: {branches, ended: {branch: the one its packages bring}}, or {refused: why}.
    """
    if "refused" in here:
        return [here["refused"]]
    if branch in here["ended"]:
        ended = f"branch {branch} has ended: its packages are empty and bring {here['ended'][branch]}"
        return [f"{ended}; set nvidia_branch to that"]
    if branch not in here["branches"]:
        known = " or ".join(map(str, here["branches"]))
        none = f"branch {branch} is none that {release} has open server modules of"
        return [f"{none}; nvidia_branch can be {known}"]
    if not kernel_packages:
        none = "no package that brings kernels is installed (linux-image-generic or another)"
        return [f"{none}, so none would bring their modules; install it"]
    return []


class FilterModule:
    def filters(self):
        return {
            "nvidia_generations": generations,
            "nvidia_packages": packages,
            "nvidia_refused_gpus": refused_gpus,
            "nvidia_refused_release": refused_release,
        }
