"""The restrictions of every service that we write, or write a drop-in for: none is missing without a reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = REPOSITORY / "templates/etc/systemd/system"
# The distribution's rsyslog begins as root and reads the kernel's log; NVIDIA's make devices' nodes, or open them all.
# What a drop-in loosens for an engine on a GPU has its reasons beside it.
LEFT_OUT = ("rsyslog", "nvidia", "engine@gpu")
SERVICES = sorted(
    path.relative_to(UNITS)
    for path in [*UNITS.glob("*.service.j2"), *UNITS.glob("*.service.d/*.j2")]
    if not any(name in str(path) for name in LEFT_OUT)
)
EVERYBODY = """
    MemoryMax TasksMax LimitCORE NoNewPrivileges CapabilityBoundingSet UMask RestrictAddressFamilies
    ProtectSystem ProtectHome PrivateTmp PrivateDevices PrivateUsers ProtectProc ProcSubset
    ProtectClock ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectControlGroups
    RestrictNamespaces RestrictRealtime RestrictSUIDSGID RemoveIPC LockPersonality MemoryDenyWriteExecute
    SystemCallArchitectures SystemCallFilter SystemCallErrorNumber
"""
OURS = {"PrivateIPC", "IPAddressDeny", "DevicePolicy", "InaccessiblePaths"}
EXPOSURE = REPOSITORY / "tests/host/test_declared_units.py"


@pytest.mark.parametrize("service", SERVICES, ids=str)
def test_a_restriction_is_there_or_a_comment_says_why_not(service):
    text = (UNITS / service).read_text()
    wanted = set(EVERYBODY.split()) | (OURS if service.name.startswith("bedplate-") else set())

    explained = " ".join(re.findall(r"^# .*$", text, re.MULTILINE))
    missing = {key for key in wanted if not re.search(rf"^{key}=", text, re.MULTILINE) and f"{key}=" not in explained}

    assert missing == set()


def test_every_service_has_a_bar_for_its_exposure():
    """The bars are asked for on hosts."""
    [bars] = [
        ast.literal_eval(node.value)
        for node in ast.parse(EXPOSURE.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "EXPOSURE"
    ]
    shipped = {path.name.split(".")[0] for path in [*UNITS.glob("*.service.j2"), *UNITS.glob("*.service.d")]}

    # An instance stands for its template, but for engines on GPUs.
    assert set(bars) == {re.sub("@(gpu)?.*", r"@\1", name) for name in shipped}
