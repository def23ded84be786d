"""Judge what playbooks/preflight.yml found: a table on standard output, JSON in a file, exit status 1 for findings.

One host a line on standard input, as JSON; hosts.py says what is in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tools.preflight import control, forms, groups, placeholders, settings
from tools.preflight.hosts import CONTROL, Finding, Host
from tools.preflight.places import place


def main() -> int:
    given = parse_arguments()
    # Should this fail, nobody takes an older report for its own.
    given.report.unlink(missing_ok=True)
    hosts = [Host.parse(json.loads(line)) for line in sys.stdin if line.strip()]
    known = [host for host in hosts if not host.error]
    findings = [finding for host in hosts for finding in _own(host)]
    malformed = list(forms.judge(known))
    findings += malformed
    # Such values cannot be compared with others.
    known = [host for host in known if host.name not in {finding.host for finding in malformed}]
    findings += settings.judge(known)
    findings += placeholders.judge(given.inventory)
    findings += groups.judge(hosts, given.inventory)
    findings += control.judge(known, given.inventory, given.vault_password_file, given.certificate_days)
    report = make_report(hosts, findings, given.inventory)
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report, indent=2) + "\n")
    print("\n".join(table(report)))
    return 0 if report["ok"] else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.preflight", description=__doc__)
    parser.add_argument("--inventory", type=Path, required=True, help="directory of the inventory")
    parser.add_argument("--report", type=Path, required=True, help="where the JSON goes")
    parser.add_argument("--vault-password-file", help="as Ansible's; without, what ansible.cfg names")
    parser.add_argument("--certificate-days", type=int, default=14, help="days that certificates have to be good for")
    return parser.parse_args()


def _own(host: Host) -> list[Finding]:
    if host.error:
        step = "See that it is up, that ansible_host and ansible_user are right, and that it has python3 and iproute2."
        return [Finding(host.name, "host", host.error, "an answer", f"{step} More with --limit {host.name} -vvv.")]
    return host.findings


def make_report(hosts: list[Host], findings: list[Finding], inventory: Path) -> dict[str, Any]:
    """`{"ok", "hosts": {name: {"ok", "size", "seen", "findings": […], "warnings": […]}}}`; `_entry` has their keys.

    What concerns all hosts, or files of the control machine, stands under `localhost`. `edit` is the place in the
    inventory, or null where something else is to be done.
    """
    entries = {}
    for host in [*hosts, Host(CONTROL)]:
        its = [each for each in findings if each.host == host.name]
        wrong, doubtful = (
            [_entry(each, host, inventory) for each in its if each.is_fatal is kind] for kind in (True, False)
        )
        entries[host.name] = {"ok": not wrong, "size": host.size, "seen": host.seen}
        entries[host.name] |= {"findings": wrong, "warnings": doubtful}
    return {"ok": bool(hosts) and all(entry["ok"] for entry in entries.values()), "hosts": entries}


def _entry(finding: Finding, host: Host, inventory: Path) -> dict[str, Any]:
    edit = f"{finding.setting} in {place(finding.setting, host, inventory)}" if finding.setting else finding.place
    return {
        "check": finding.check,
        "found": finding.found,
        "wanted": finding.wanted,
        "next_step": finding.next_step,
        "edit": edit,
    }


def table(report: dict[str, Any]) -> list[str]:
    """A line for each host that is well, and three for each finding and warning, which are too long for columns."""
    lines = []
    for name, host in report["hosts"].items():
        if host["ok"]:
            lines.append(f"{name:12} ok   {_words(host['seen'])}".rstrip())
        told = [("BAD ", one) for one in host["findings"]] + [("warn", one) for one in host["warnings"]]
        for word, one in told:
            lines.append(f"{name:12} {word} {one['check']}: {one['found']}; wanted: {one['wanted']}")
            lines.append(f"{'':17} {one['next_step']}")
            if one["edit"]:
                lines.append(f"{'':17} Edit {one['edit']}")
    return lines or ["no hosts"]


def _words(seen: dict[str, Any]) -> str:
    if not seen:
        return "secrets, certificates, settings"
    return (
        f"{seen['cores']} cores, {seen['memory_gb']} GB, {seen['free_gb']} GB free, {seen['release']}, "
        f"kernel {seen['kernel']}, Python {seen['python']}, {len(seen['gpus'])} GPUs"
    )


if __name__ == "__main__":
    sys.exit(main())
