"""A host as the report is told of it: what was seen, what was found, and the settings that the inventory gives it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import yaml

from tools.deployment import ROOT

CONTROL = "localhost"  # where a finding is of all hosts together, or of files on the control machine


@dataclass(frozen=True)
class Finding:
    host: str
    check: str
    found: str
    wanted: str
    next_step: str
    setting: str | None = None  # the variable to edit, if it is one
    place: str | None = None  # the lines to edit, where no variable says it
    is_fatal: bool = True  # else it is told, and keeps nobody from a run


@dataclass(frozen=True)
class Host:
    name: str
    groups: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)  # those that the inventory sets
    seen: dict[str, Any] = field(default_factory=dict)  # by library/host_preflight.py
    findings: list[Finding] = field(default_factory=list)
    size: str = ""
    sizes: list[str] = field(default_factory=list)  # those that there are
    error: str = ""  # why nothing is known of it

    @classmethod
    def parse(cls, line: dict[str, Any]) -> Host:
        """`{"host": …, "result": {"groups", "settings", "seen", "findings", "size", "sizes"} or null, "error": …}`"""
        name, result = line["host"], line["result"]
        if result is None:
            return cls(name, error=line["error"])
        findings = [Finding(name, **finding) for finding in result["findings"]]
        known = {key: result[key] for key in ("groups", "settings", "seen", "size", "sizes")}
        return cls(name, findings=findings, **known)

    def setting(self, name: str) -> Any:
        """What the inventory says, or else the manual of the role; None where that follows from something else."""
        value = manual(name.split("_", 1)[0]).get(name)
        if name not in self.settings:
            return None if isinstance(value, str) and "{{" in value else value
        given = self.settings[name]
        # What came by `-e name=2`.
        return int(given) if isinstance(value, int) and isinstance(given, str) and given.isdigit() else given

    @property
    def address(self) -> Any:
        """`private_address`, or None where it is missing or no address."""
        try:
            return ipaddress.ip_address(str(self.settings.get("private_address")))
        except ValueError:
            return None


@cache
def manual(role: str) -> dict[str, Any]:
    """The defaults of a role, as they are written."""
    path = ROOT / "roles" / role / "defaults/main.yml"
    return dict(yaml.safe_load(path.read_text()) or {}) if path.exists() else {}
