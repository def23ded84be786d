"""What a program that was broken into can do: a probe runs in the sandbox of the units, and outside to compare."""

import json
from pathlib import Path

import pytest

testinfra_hosts = ["ssh://gpu1"]

PROBE = Path(__file__).with_name("probe.py").read_text()
# An instance of each template unit that no inventory declares; it gets every line of the template.
WEB = "bedplate-web@9"
ENGINE = "bedplate-engine@probe"
DECODER = "bedplate-decode@9"
DECODER_DIR = "/run/bedplate/decode/9"
UNITS = (WEB, ENGINE, DECODER)
DROP_IN = """\
[Service]
Type=oneshot
Restart=no
WatchdogSec=0
ExecStart=
ExecStart=/opt/bedplate/current/bin/python -I /run/bedplate-probe/probe.py
StandardOutput=truncate:/run/bedplate-probe/%n.json
"""

DENIED_TO_ALL = [
    "write /etc",
    "write the release",
    "write /var/lib",
    "read /home",
    "read /root",
    "read the stored keys",
    "open an inet socket",
    "open an inet6 socket",
    "open a raw socket",
    "open a packet socket",
    "open a netlink socket",
    "see other processes",
    "trace a process",
    "make a namespace",
    "make a setuid file",
]
DENIED_TO_DECODER = ["read the models", "bind an engine's socket", "connect to the engine", "map writable code"]
DENIED_TO_WEB = ["read the models", "bind an engine's socket", "connect as an operator", "map writable code"]


@pytest.fixture(scope="module")
def probed(host):
    """Outcomes of the probe: {"outside" | WEB | ENGINE | DECODER: {attempt: outcome}}."""
    write(host, "/run/bedplate-probe/probe.py", PROBE)
    for unit in UNITS:
        write(host, drop_in(unit), DROP_IN)
    # systemd-tmpfiles makes those of the instances that are declared.
    host.check_output("install -d -m 2750 -o bedplate-decode -g bedplate-web %s", DECODER_DIR)
    host.check_output("systemctl daemon-reload")
    yield {"outside": json.loads(host.check_output("/usr/bin/python3 -I /run/bedplate-probe/probe.py"))} | {
        unit: run_in_sandbox(host, unit) for unit in UNITS
    }
    host.run(f"systemctl stop {WEB}.socket {' '.join(UNITS)}")
    for folder in ["/run/bedplate-probe", DECODER_DIR, *(Path(drop_in(unit)).parent for unit in UNITS)]:
        host.check_output("rm -r %s", str(folder))
    host.check_output("systemctl daemon-reload")


def drop_in(unit):
    return f"/run/systemd/system/{unit}.service.d/probe.conf"


def write(host, path, text):
    host.check_output("mkdir -p %s && printf %%s %s > %s", str(Path(path).parent), text, path)


def run_in_sandbox(host, unit):
    started = host.run(f"systemctl start {unit}.service")
    assert started.rc == 0, host.run(f"journalctl --unit={unit} --lines=20 --no-pager").stdout
    return json.loads(host.check_output(f"cat /run/bedplate-probe/{unit}.service.json"))


@pytest.mark.parametrize("attempt", DENIED_TO_ALL + DENIED_TO_WEB)
def test_the_web_is_denied_what_is_possible_outside(probed, attempt):
    assert probed["outside"][attempt] == "allowed"
    assert probed[WEB][attempt] != "allowed"


@pytest.mark.parametrize("attempt", DENIED_TO_ALL)
def test_the_engine_is_denied_what_is_possible_outside(probed, attempt):
    assert probed["outside"][attempt] == "allowed"
    assert probed[ENGINE][attempt] != "allowed"


@pytest.mark.parametrize("attempt", DENIED_TO_ALL + DENIED_TO_DECODER)
def test_the_decoder_is_denied_what_is_possible_outside(probed, attempt):
    assert probed["outside"][attempt] == "allowed"
    assert probed[DECODER][attempt] != "allowed"


@pytest.mark.parametrize("attempt", ["connect to the engine", "read its credential"])
def test_the_web_can_do_its_work(probed, attempt):
    assert probed[WEB][attempt] == "allowed"


@pytest.mark.parametrize("attempt", ["read the models", "bind an engine's socket"])
def test_the_engine_can_do_its_work(probed, attempt):
    assert probed[ENGINE][attempt] == "allowed"
