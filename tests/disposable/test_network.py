"""What this machine forwards for its test hosts, asked of the kernel in network namespaces of their own."""

import json
import subprocess
import sys

import pytest
from fleet_on_trial import REPOSITORY, as_root

# In a namespace that is this machine: an uplink, a LAN beside it, and a host on the bridge.
ROUTER = r"""
import json, pathlib, subprocess, sys
sys.path.insert(0, {repository!r})
from tools.disposable import network as net
from tools.disposable.system import run

net.CHANGED = pathlib.Path({changed!r})
net.nameservers = lambda: ["198.51.100.2"]
SERVE = "import socket; s = socket.create_server(('', 80)); print('up', flush=True)\nwhile True: s.accept()[0].close()"
CALL = "import socket, sys; socket.create_connection((sys.argv[1], 80), 1)"
others = []

def other(name, address, gateway):
    # Linked by a cable called `name`; serves on port 80.
    command = ["unshare", "--net", sys.executable, "-c", SERVE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    process.stdout.readline()
    others.append(process)
    inside = ["nsenter", f"--net=/proc/{{process.pid}}/ns/net"]
    run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
    run("ip", "link", "set", name, "up")
    for words in (f"addr add {{address}} dev eth0", "link set eth0 up", f"route add default via {{gateway}}"):
        run(*inside, "ip", *words.split())
    return lambda to: subprocess.run([*inside, sys.executable, "-c", CALL, to], capture_output=True).returncode == 0

def switches():
    names = ("all", "lan", "uplink", "bp-try-0000")
    return {{name: net.forwards(name) for name in names if (net.FORWARDING / name).exists()}}

try:
    run("ip", "link", "set", "lo", "up")
    outside = other("uplink", "198.51.100.2/24", "198.51.100.1")
    lan = other("lan", "203.0.113.2/24", "203.0.113.1")
    run("ip", "addr", "add", "198.51.100.1/24", "dev", "uplink")
    run("ip", "addr", "add", "203.0.113.1/24", "dev", "lan")
    run("ip", "route", "add", "default", "via", "198.51.100.2")
    (net.FORWARDING / "all" / "forwarding").write_text("0")
    network = net.Network("bp-try-0000", "10.9.8.0/24", "fd00:9:8:1")
    net.raise_network(network)
    host = other("vb-one", "10.9.8.10/24", "10.9.8.1")
    run("ip", "link", "set", "vb-one", "master", network.bridge)
    said = {{"on": switches(), "host to outside": host("198.51.100.2"), "host to lan": host("203.0.113.2"),
            "outside to host": outside("10.9.8.10"), "outside to lan": outside("203.0.113.2"),
            "lan to outside": lan("198.51.100.2")}}
    (net.FORWARDING / "all" / "forwarding").write_text({docker!r})
    net.remove_network(network.bridge)
    net.restore_forwarding()
    print(json.dumps(said | {{"off": switches(), "left": [str(path) for path in net.CHANGED.glob("*")]}}))
finally:
    for process in others:
        process.kill()
"""


@pytest.fixture
def routed(tmp_path):
    """routed(docker) → what happened on a machine where Docker came before the end, or did not."""

    def routed(docker):
        text = ROUTER.format(repository=str(REPOSITORY), changed=str(tmp_path / "forwarding"), docker=docker)
        command = [*as_root(), "unshare", "--net", sys.executable, "-c", text]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return routed


def test_this_machine_forwards_between_its_hosts_and_its_uplink_and_nowhere_else(routed):
    said = routed("0")

    assert said["on"] == {"all": False, "lan": False, "uplink": True, "bp-try-0000": True}
    assert {name: works for name, works in said.items() if " to " in name} == {
        "host to outside": True,
        "host to lan": False,
        "outside to host": False,
        "outside to lan": False,
        "lan to outside": False,
    }
    assert said["off"] == {"all": False, "lan": False, "uplink": False}
    assert said["left"] == []


def test_forwarding_that_another_turned_on_meanwhile_stays_on(routed):
    said = routed("1")

    assert said["off"] == {"all": True, "lan": True, "uplink": True}
    assert said["left"] == []
