"""What playbooks/check.yml found, as a table on standard output and as JSON in a file: check_report.py FILE < results.

One result a line, as JSON: `host`, and `result`, null for a host that was not reached, with `units` (lines of what is
not as declared), `files` (lines of what is not as written, null where nobody knows), `look` (findings), `canary`
(output of `bedplate canary`, or null) and `canary_error`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Finding = dict[str, Any]


def main(target: Path) -> int:
    report = make_report([json.loads(line) for line in sys.stdin if line.strip()])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")
    print("\n".join(table(report)))
    return 0 if report["ok"] else 1


def make_report(results: list[dict[str, Any]]) -> dict[str, Any]:
    """`{"ok": …, "hosts": {host: {"ok": …, "findings": [{"check", "ok", "found", "wanted"}, …]}}}`"""
    hosts = {}
    for each in results:
        findings = findings_of(each["result"])
        hosts[each["host"]] = {"ok": all(finding["ok"] for finding in findings), "findings": findings}
    return {"ok": bool(hosts) and all(host["ok"] for host in hosts.values()), "hosts": hosts}


def findings_of(parts: dict[str, Any] | None) -> list[Finding]:
    if parts is None:
        return [_finding("host", False, "not reached", "an answer")]
    units = [_finding("unit", False, line, "no difference to what was declared") for line in parts["units"]]
    units = units or [_finding("units", True, "as declared, each has read its files", "the same")]
    return [*units, *_files(parts["files"]), *parts["look"], *_predictions(parts["canary"], parts["canary_error"])]


def _files(differences: list[str] | None) -> list[Finding]:
    if differences is None:
        return [_finding("files", False, "no run has remembered what it wrote", "one run of site.yml")]
    found = [
        _finding("file", False, line, "as written by the last run; site.yml writes it again") for line in differences
    ]
    return found or [_finding("files", True, "as they were written", "the same")]


def _predictions(output: str | None, error: str) -> list[Finding]:
    if output is None:
        return []
    asked = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    found = [
        _finding(f"prediction {one['url']}", one["ok"], f"{one['found']} ({one['latency_ms']} ms)", one["wanted"])
        for one in asked
    ]
    return found or [_finding("predictions", False, f"no answers: {error.strip()[-300:]}", "one for each model")]


def _finding(check: str, ok: bool, found: str, wanted: str) -> Finding:
    return {"check": check, "ok": ok, "found": found, "wanted": wanted}


def table(report: dict[str, Any]) -> list[str]:
    rows = [("HOST", "", "CHECK", "FOUND", "WANTED")]
    for name, host in report["hosts"].items():
        for one in host["findings"]:
            # What is wanted matters where it was not found.
            rows.append(
                (name, "ok" if one["ok"] else "BAD", one["check"], one["found"], "" if one["ok"] else one["wanted"])
            )
    widths = [*(max(len(row[column]) for row in rows) for column in range(4)), 0]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
