"""A stranger on the bridge: what a firewall lets through can only be asked from outside the fleet."""

from __future__ import annotations

import os
import subprocess

from tools.disposable.network import Network, has_ipv6
from tools.disposable.system import Refused, run, succeeds, wait_until

# Several may run at a time: one that holds slow connections open, one that watches.
NUMBERS = range(250, 255)


def run_outside(network: Network, command: list[str]) -> int:
    """Exit status of a command in a network namespace that is on the bridge and is nobody's host.

    The namespace and its cable go with the command, however this tool ends: it waits for a line that a dead tool
    never writes.
    """
    wait_then_run = ["sh", "-c", 'read line && exec "$@" < /dev/null', "outside", *command]
    with subprocess.Popen(["unshare", "--net", "--", *wait_then_run], stdin=subprocess.PIPE, text=True) as stranger:
        wait_until(lambda: _namespace(stranger.pid) != _namespace(os.getpid()), "no network namespace")
        _connect(network, stranger.pid)
        stranger.communicate("go\n")
        return stranger.returncode


def _connect(network: Network, pid: int) -> None:
    for number in NUMBERS:
        cable = f"vo-{network.bridge[-4:]}-{number}"
        if succeeds("ip", "link", "add", cable, "type", "veth", "peer", "name", "out0", "netns", str(pid)):
            run("ip", "link", "set", cable, "master", network.bridge, "up")
            run("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-batch", "-", stdin=_settings(network, number))
            return
    raise Refused(f"{len(NUMBERS)} outsiders are on {network.bridge} already, or it is gone; see `ip link`")


def _settings(network: Network, number: int) -> str:
    lines = ["link set lo up", "link set out0 up", f"addr add {network.address(number)}/24 dev out0"]
    if has_ipv6():
        lines.append(f"addr add {network.address6(number)}/64 dev out0 nodad")
    return "\n".join([*lines, f"route add default via {network.address(1)}", ""])


def _namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")
